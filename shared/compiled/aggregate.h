/* KPL's format of aggregates (shared/aggregation.py describes it), for who writes them and who reads them. */
#ifndef HEADRACE_AGGREGATE_H
#define HEADRACE_AGGREGATE_H

#include "columns.h"

static const uint8_t MAGIC[4] = {0xf3, 0x89, 0x9a, 0xc2};

/* Field number and wire type, of a message and of a record in it. */
#define TAG_KEY 0x0a
#define TAG_RECORD 0x1a
#define TAG_INDEX 0x08
#define TAG_DATA 0x1a

#endif
