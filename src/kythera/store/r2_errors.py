"""What R2 refuses: Cloudflare's codes and texts (developers.cloudflare.com/r2/api/error-codes).

Each returns a `Refusal`; a cell is told its code and message in the header `CF-R2-Error`.
"""

from kythera.model.errors import Refusal

PRECONDITION_FAILED = 10031
NO_SUCH_KEY = 10007
NO_SUCH_BUCKET = 10006
BUCKET_EXISTS = 10004
BUCKET_NOT_EMPTY = 10008
NO_SUCH_UPLOAD = 10024


def internal() -> Refusal:
    """Say that the engine failed."""
    text = "We encountered an internal error. Please try again."
    return Refusal(10001, text, status=500)


def unauthorized() -> Refusal:
    """Refuse whoever shows no pass."""
    return Refusal(
        10002, "Unauthorized: this store takes requests of this machine's cells alone.", status=401
    )


def no_such_bucket() -> Refusal:
    """Say that there is no such bucket."""
    return Refusal(NO_SUCH_BUCKET, "The specified bucket does not exist.", status=404)


def no_such_key() -> Refusal:
    """Say that there is no such object."""
    return Refusal(NO_SUCH_KEY, "The specified key does not exist.", status=404)


def bucket_not_empty() -> Refusal:
    """Refuse to delete a bucket that holds objects."""
    text = "The bucket you tried to delete is not empty."
    return Refusal(BUCKET_NOT_EMPTY, text, status=409)


def entity_too_small() -> Refusal:
    """Refuse a multipart upload with a short part before its last."""
    text = "Your proposed upload is smaller than the minimum allowed object size."
    return Refusal(10011, text)


def metadata_too_large() -> Refusal:
    """Refuse metadata above its limit."""
    text = "Your metadata headers exceed the maximum allowed metadata size."
    return Refusal(10012, text)


def invalid_name(why: str = "") -> Refusal:
    """Refuse a key."""
    return Refusal(10020, f"The specified object name is not valid. {why}".strip())


def invalid_max_keys() -> Refusal:
    """Refuse the limit of a list."""
    return Refusal(10022, "MaxKeys params must be positive integer <= 1000.")


def no_such_upload() -> Refusal:
    """Say that there is no such multipart upload."""
    return Refusal(NO_SUCH_UPLOAD, "The specified multipart upload does not exist.")


def invalid_part() -> Refusal:
    """Refuse to complete an upload with a part that is not there."""
    return Refusal(10025, "One or more of the specified parts could not be found.")


def invalid_argument(what: str) -> Refusal:
    """Refuse a request that says what cannot be."""
    return Refusal(10029, what)


def not_implemented(what: str) -> Refusal:
    """Refuse what this platform does not offer."""
    return Refusal(10041, f"{what} is not offered on this platform.", status=501)


def precondition_failed() -> Refusal:
    """Say that `onlyIf` does not hold."""
    text = "At least one of the pre-conditions you specified did not hold."
    return Refusal(PRECONDITION_FAILED, text, status=412)


def bad_digest(algorithm: str, given: bytes, found: bytes) -> Refusal:
    """Refuse a body that is not what its checksum says."""
    algorithm = algorithm.upper().replace("SHA", "SHA-")
    text = (
        f"The {algorithm} checksum you specified did not match what we received.\n"
        f"You provided a {algorithm} checksum with value: {given.hex()}\n"
        f"Actual {algorithm} was: {found.hex()}"
    )
    return Refusal(10037, text)


def invalid_range() -> Refusal:
    """Refuse a range outside of the object."""
    return Refusal(10039, "The requested range is not satisfiable", status=416)


def entity_too_large() -> Refusal:
    """Refuse an object above its limit."""
    text = "Your proposed upload exceeds the maximum allowed object size."
    return Refusal(100100, text)
