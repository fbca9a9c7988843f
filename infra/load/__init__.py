"""Load on the whole pipeline: events at the times of a schedule, how long each took, and the audit's verdict."""
