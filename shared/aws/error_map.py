"""The only reader of botocore's errors: turns each into one of ours, with the question of retrying answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aiohttp import ClientError as ConnectionBrokenError
from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError

from shared.errors import (
    AccessDeniedError,
    AmbiguousCallError,
    BucketNotFoundError,
    ConfigurationError,
    CredentialsError,
    ForeignPositionError,
    HeadraceError,
    InvalidRequestError,
    IteratorExpiredError,
    ServiceError,
    ServiceUnavailableError,
    StreamNotFoundError,
    TableNotFoundError,
    ThrottledError,
)

_SERVER_ERROR: Final = 500

# Each code with the reason why it is (not) tried again.
_BY_CODE: Final[dict[str, type[ServiceError]]] = {
    # The service refused before doing anything: try again, slower.
    "ProvisionedThroughputExceededException": ThrottledError,
    "LimitExceededException": ThrottledError,
    "ThrottlingException": ThrottledError,
    "Throttling": ThrottledError,
    "RequestLimitExceeded": ThrottledError,
    "SlowDown": ThrottledError,
    "KMSThrottlingException": ThrottledError,
    "TooManyRequestsException": ThrottledError,
    # A conflicting conditional PutObject is under way: the same request may be sent again (S3 user guide).
    "ConditionalRequestConflict": ThrottledError,
    "OperationAborted": ThrottledError,
    # The stream is being made, changed or deleted: wait.
    "ResourceInUseException": ThrottledError,
    # The service failed, perhaps after doing it.
    "InternalFailure": AmbiguousCallError,
    "InternalFailureException": AmbiguousCallError,
    "InternalServerError": AmbiguousCallError,
    "InternalError": AmbiguousCallError,
    "ServiceUnavailable": AmbiguousCallError,
    "ServiceUnavailableException": AmbiguousCallError,
    "RequestTimeout": AmbiguousCallError,
    "RequestTimeoutException": AmbiguousCallError,
    # A new iterator helps.
    "ExpiredIteratorException": IteratorExpiredError,
    # Credentials: no retry helps until somebody acts.
    "AccessDeniedException": AccessDeniedError,
    "AccessDenied": AccessDeniedError,
    "403": AccessDeniedError,  # an answer without a body, as HeadBucket gives
    "UnrecognizedClientException": AccessDeniedError,
    "InvalidClientTokenId": AccessDeniedError,
    "InvalidSignatureException": AccessDeniedError,
    "SignatureDoesNotMatch": AccessDeniedError,
    "ExpiredTokenException": AccessDeniedError,
    "ExpiredToken": AccessDeniedError,
    "IncompleteSignature": AccessDeniedError,
    "MissingAuthenticationToken": AccessDeniedError,
    "InvalidAccessKeyId": AccessDeniedError,
    "KMSAccessDeniedException": AccessDeniedError,
    "KMSDisabledException": AccessDeniedError,
    "KMSInvalidStateException": AccessDeniedError,
    "KMSNotFoundException": AccessDeniedError,
    "NoSuchBucket": BucketNotFoundError,
}

_NOT_FOUND: Final[dict[str, type[ServiceError]]] = {
    "kinesis": StreamNotFoundError,
    "dynamodb": TableNotFoundError,
    "s3": BucketNotFoundError,
}

_FOREIGN_POSITION: Final = "it did not come from this stream"  # GetShardIterator has one code for all that is wrong

_NOUN: Final = {
    "kinesis": "stream",
    "dynamodb": "table",
    "s3": "bucket",
    "sts": "account",
    "firehose": "delivery stream",
    "iam": "role",
    "logs": "log group",
}

_HINTS: Final[dict[type[ServiceError], str]] = {
    StreamNotFoundError: "`headrace provision` makes the streams; check AWS_REGION and AWS_ENDPOINT_URL",
    TableNotFoundError: "`headrace provision` makes the lease table; check AWS_REGION and AWS_ENDPOINT_URL",
    BucketNotFoundError: "`headrace provision` makes the bucket; check AWS_REGION and AWS_ENDPOINT_URL",
    AccessDeniedError: "Check the credentials, their expiry and their permissions (infra/template.yaml lists them)",
    ForeignPositionError: "The stream was deleted and made again: stop all workers and run `headrace forget`, or read"
    " it under another application name (--app)",
    ServiceUnavailableError: "Check the network and AWS_ENDPOINT_URL; is `headrace local` running?",
}


@contextmanager
def aws_errors(service: str, operation: str, resource: str) -> Iterator[None]:
    """Turn botocore's errors inside the block into ours; `resource` is the stream, table or bucket in question.

    An answer that breaks off in the middle of its body is the one error that aiobotocore leaves to aiohttp.
    """
    try:
        yield
    except (
        botocore_errors.BotoCoreError,
        botocore_errors.ClientError,
        ConnectionBrokenError,
        ResponseParserError,  # an answer that is not what the service writes; it is no BotoCoreError
        OSError,
        TimeoutError,
    ) as error:
        raise _translate(error, service, operation, resource) from error


def _translate(error: Exception, service: str, operation: str, resource: str) -> HeadraceError:
    if isinstance(error, botocore_errors.ClientError):
        return _from_answer(error.response, service, operation, resource)
    return _from_client_side(error, f"{operation} on {_NOUN[service]} `{resource}`")


def _from_client_side(error: Exception, place: str) -> HeadraceError:
    """Translate what went wrong before, or instead of, an answer."""
    if isinstance(
        error,
        (
            botocore_errors.NoCredentialsError,
            botocore_errors.PartialCredentialsError,
            botocore_errors.TokenRetrievalError,
        ),
    ):
        return CredentialsError(
            f"No usable AWS credentials: {error}",
            hint="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; `headrace local` prints some to try",
        )
    if isinstance(error, botocore_errors.NoRegionError):
        return CredentialsError("No AWS region is set", hint="Set AWS_REGION, e.g., AWS_REGION=eu-central-1")
    if isinstance(error, (botocore_errors.ProfileNotFound, botocore_errors.InvalidConfigError)):
        return CredentialsError(
            f"The AWS configuration is not usable: {error}", hint="Check AWS_PROFILE and ~/.aws/config"
        )
    if isinstance(error, (botocore_errors.EndpointConnectionError, botocore_errors.ConnectTimeoutError)):
        return ServiceUnavailableError(
            f"Could not connect for {place}: {error}", hint=_HINTS[ServiceUnavailableError], code=type(error).__name__
        )
    if isinstance(error, (botocore_errors.ParamValidationError, botocore_errors.InvalidRegionError, ValueError)):
        return ConfigurationError(f"{place} can't be sent: {error}", hint="Check names, region and endpoint")
    return AmbiguousCallError(
        f"No answer to {place}: {type(error).__name__}", hint=_HINTS[ServiceUnavailableError], code=type(error).__name__
    )


def _from_answer(answer: Any, service: str, operation: str, resource: str) -> HeadraceError:
    details = answer.get("Error", {})
    code = str(details.get("Code", "Unknown"))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    kind = _BY_CODE.get(code)
    if kind is None and (code == "ResourceNotFoundException" or (service == "s3" and code == "404")):
        kind = _NOT_FOUND.get(service)
    if kind is None:
        kind = AmbiguousCallError if status >= _SERVER_ERROR else InvalidRequestError
    text = str(details.get("Message", ""))
    if kind is InvalidRequestError and _FOREIGN_POSITION in text:
        kind = ForeignPositionError
    noun = _NOUN[service]
    hint = _HINTS.get(kind, "")
    if kind is InvalidRequestError and service == "dynamodb":
        hint = f"Is `{resource}` a lease table? `headrace provision --app {resource}` makes one, or says why it can't"
    if kind in _NOT_FOUND.values():
        message = f"{noun.capitalize()} `{resource}` does not exist"
    else:
        message = f"{operation} on {noun} `{resource}` was refused: {code}: {text[:500]}"
    return kind(message, hint=hint, code=code)
