"""Classify failures of store calls: transient, permanent or other.

MLflow hides most causes in texts and in the arguments of its own exceptions, so both are searched.
"""

from __future__ import annotations

import re
from functools import cached_property

from pipeline.tracking.uri import redact

PERMANENT = {  # reason -> pattern in the lower-case text
    "the store is read-only": r"readonly database|read-only (file system|transaction)",
    "the disk is full": r"database or disk is full|no space left|disk quota exceeded",
    "the disk fails": r"disk i/o error",
    "permission denied": r"permission denied",
    "the database cannot be opened": r"unable to open database file",
    "the database is damaged": r"database disk image is malformed|file is not a database",
    "the database is incomplete: no such table": r"no such table: ",
    "the password is wrong": r"password authentication failed",
    "needs a user and a password: MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD": r"error code 401",
    "the server does not know this name of its machine, see its --allowed-hosts": r"invalid host header",
}
TRANSIENT = (
    r"database (table )?is locked|failed with (timeout )?exception|not in a valid json format"
    r"|(unique constraint|duplicate (key|entry)).*\bdataset"  # another process has just logged the same data set
)
DELETED = r"\b(run|experiment) (?:with id=)?'?(\w+)'? (?:must be in the 'active' state|not found|exists)"
OTHER_REASONS = {  # for messages only
    "the database is locked": r"locked",
    "connection refused": r"connection refused",
    "no answer in time": r"timed out",
    "a reply was cut off": r"incompleteread|chunkedencoding|valid json|not sent whole|line \d+ column \d+ \(char",
    "the connection was cut": r"connection reset|remote end closed|connection aborted",
}


class StoreFailure:
    """An exception of a store call, with everything that led to it.

    Args:
        failure: The exception.
        outer: An exception that was being handled before the call, which is no cause.

    Attributes:
        causes: The exceptions, the failure first.
        text: Their first lines in lower case. The other lines hold SQL statements and values.
    """

    def __init__(self, failure: BaseException, outer: BaseException | None = None) -> None:
        self.causes: list[BaseException] = []
        remaining: list[object] = [failure]
        while remaining:
            item = remaining.pop(0)
            if isinstance(item, BaseException) and item is not outer and all(item is not c for c in self.causes):
                self.causes.append(item)
                remaining += [item.__cause__, item.__context__, *item.args]
        self.text = " ".join(str(cause).strip().partition("\n")[0] for cause in self.causes).lower()

    @cached_property
    def reason(self) -> str:
        """The reason in a few words, without secrets."""
        if status := re.search(r"too many (\d{3}) error responses", self.text):
            return f"the server answers {status[1]}"
        for reason, pattern in (PERMANENT | OTHER_REASONS).items():
            if re.search(pattern, self.text):
                return reason
        return redact(str(self.causes[0]).strip().partition("\n")[0])[:200] or type(self.causes[0]).__name__

    @cached_property
    def deleted(self) -> str | None:
        """Which run or experiment was deleted, in words; None for another failure."""
        found = re.search(DELETED, self.text)
        return f"{found[1]} {found[2]} was deleted while it was used" if found else None

    @cached_property
    def is_permanent(self) -> bool:
        """Whether the failure lasts, however often the call is retried."""
        return any(re.search(pattern, self.text) for pattern in PERMANENT.values())

    @cached_property
    def is_transient(self) -> bool:
        """Whether the failure may pass."""
        if self.is_permanent:
            return False
        return bool(re.search(TRANSIENT, self.text)) or any(map(self._is_transient_class, self.causes))

    def _is_transient_class(self, cause: BaseException) -> bool:  # by name, to avoid heavy imports
        module, name = type(cause).__module__.partition(".")[0], type(cause).__name__
        if module == "requests":
            status = getattr(getattr(cause, "response", None), "status_code", None) or 0
            return name in ("ConnectionError", "ChunkedEncodingError", "ReadTimeout", "ConnectTimeout") or status >= 500
        if name == "JSONDecodeError":  # a list of artifacts that was cut
            return True
        if module == "sqlalchemy":
            return name in ("OperationalError", "InterfaceError") and "sqlite3" not in self.text
        if module == "mlflow":  # a server's reply, not our own database: 5xx or "too many requests"
            status = getattr(cause, "get_http_status_code", lambda: 0)()
            is_reply = name == "RestException" or "failed with error code" in str(cause)
            return is_reply and (status >= 500 or status == 429)
        return isinstance(cause, (ConnectionError, TimeoutError))
