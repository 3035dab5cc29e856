"""What the errors of botocore, and the answers with which SQS refuses something, mean."""

import re
from http import HTTPStatus

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.transport.error_boundary import ErrorBoundary

#: How AWS says that there is no such queue: by its older protocol, and by the present one.
MISSING = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
#: How it says that a queue exists with other attributes than those asked for.
EXISTS = ("QueueAlreadyExists", "QueueNameExists")
#: How it says that an attribute of a queue is out of range, such as the size of messages.
WRONG_SIZE = ("InvalidAttributeValue", "InvalidParameterValue")
#: How it says that a handle of a message is not valid any more: it was deleted, or its lease ended.
GONE = (
    "AWS.SimpleQueueService.MessageNotInflight",
    "InvalidParameterValue",
    "MessageNotInflight",
    "ReceiptHandleIsInvalid",
)
#: What a server answers that cannot serve now, besides all answers with an HTTP status from 500 on.
NOT_NOW = (
    "AWS.SimpleQueueService.QueueDeletedRecently",
    "InternalError",
    "InternalFailure",
    "QueueDeletedRecently",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
)
#: What it answers where the client, or its account, makes too many requests.
TOO_MANY = (
    "KmsThrottled",
    "KMS.ThrottlingException",
    "OverLimit",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
)
#: What it answers to a client that it does not know.
NOT_KNOWN = (
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "MissingAuthenticationToken",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
)
#: What it answers to a client that may not do this.
NOT_ALLOWED = (
    "AccessDenied",
    "AccessDeniedException",
    "KMS.AccessDeniedException",
    "KmsAccessDenied",
    "UnauthorizedOperation",
)
#: What botocore raises if a connection cannot be made, or is lost.
NO_CONNECTION = (ConnectionError, HTTPClientError)
#: What botocore raises if it finds no credentials, or cannot get them where they are to be found.
NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

#: How much of the text of an answer is shown, in characters.
LONGEST_TEXT = 300
_MARKUP = re.compile(r"<[^>]*>")

_CREDENTIALS = (
    "Credentials are found as AWS's own tools find them: in AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or the role of the machine or container. "
    "`aws sts get-caller-identity` shows who you are."
)
_LIMITED = (
    "It is reached, and asks for fewer requests: they are tried again more slowly. If this goes "
    "on, use fewer queues and priorities, or have the limits of the account raised at AWS."
)
#: What the policy of a role has to allow.
_ACTIONS = (
    "sqs:GetQueueUrl, GetQueueAttributes, SendMessage, ReceiveMessage, DeleteMessage, "
    "ChangeMessageVisibility, ListQueues and CreateQueue"
)


class QueueMissingError(Exception):
    """There is no such queue; only code that knows which one it is sees this."""


class SqsErrors(ErrorBoundary):
    """The boundary of SQS."""

    advice = (
        "Check that this machine may reach it, the region in the URL, and the option endpoint_url."
    )

    def translate(self, error: Exception) -> DagsterTaskiqError | None:
        """See the base class."""
        if isinstance(error, ClientError):
            return self._answer(error)
        if isinstance(error, NO_CREDENTIALS):
            problem = str(error).rstrip(".")
            return ConfigError(f"No credentials for {self.shown}: {problem}. {_CREDENTIALS}")
        if isinstance(error, NO_CONNECTION):
            return self.unavailable(error)
        if isinstance(error, BotoCoreError):
            return ConfigError(f"Cannot use {self.shown}: {error}")
        return None

    def _answer(self, error: ClientError) -> DagsterTaskiqError | None:
        code, text, status = code_of(error), text_of(error), status_of(error)
        if code in TOO_MANY:
            return ServerUnavailableError(
                f"{self.shown} limits the rate of requests: {text}. {_LIMITED}", text
            )
        if code in NOT_NOW or status >= 500:
            return self.unavailable(text)
        if code in NOT_KNOWN or status == HTTPStatus.UNAUTHORIZED:
            return ConfigError(f"{self.shown} does not let us in: {text}. {_CREDENTIALS}")
        if code in NOT_ALLOWED or status == HTTPStatus.FORBIDDEN:
            return ConfigError(
                f"{self.shown} does not permit {error.operation_name}: {text}. Allow "
                f"{_ACTIONS} for the queues that begin with the prefix."
            )
        if status != HTTPStatus.BAD_REQUEST:
            # It is not SQS that answers, but a proxy, or another server at the endpoint_url.
            return ConfigError(
                f"{self.shown} refuses {error.operation_name}: {text}. {self.advice}"
            )
        return None


def code_of(error: ClientError) -> str:
    """Return the code of an answer."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """Return the HTTP status of an answer; 0 if it is not known."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def text_of(error: ClientError) -> str:
    """Return the code and the text of an answer, in one line."""
    text = str(error.response.get("Error", {}).get("Message", ""))
    # What is no answer of SQS may be a page of a proxy.
    words = _MARKUP.sub(" ", text).split() if text.lstrip().startswith("<") else text.split()
    shown = " ".join(words)[:LONGEST_TEXT].rstrip(". ")
    return f"{code_of(error)}: {shown}" if shown else code_of(error)
