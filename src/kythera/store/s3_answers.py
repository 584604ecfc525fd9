"""What S3's clients are told: XML, and which of their words a refusal is. Pure."""

from collections.abc import Iterable, Mapping
from urllib.parse import quote
from xml.sax.saxutils import escape

from kythera.ground.clock import iso
from kythera.model.errors import Refusal
from kythera.store.r2_listing import Page
from kythera.store.r2_objects import INFREQUENT, Found

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
CODES: Mapping[int, str] = {
    10001: "InternalError",
    10002: "Unauthorized",
    10004: "BucketAlreadyOwnedByYou",
    10005: "InvalidBucketName",
    10006: "NoSuchBucket",
    10007: "NoSuchKey",
    10008: "BucketNotEmpty",
    10009: "TooManyBuckets",
    10011: "EntityTooSmall",
    10012: "MetadataTooLarge",
    10018: "ExpiredRequest",
    10020: "InvalidObjectName",
    10022: "InvalidMaxKeys",
    10024: "NoSuchUpload",
    10025: "InvalidPart",
    10029: "InvalidArgument",
    10031: "PreconditionFailed",
    10035: "SignatureDoesNotMatch",
    10037: "BadDigest",
    10039: "InvalidRange",
    10041: "NotImplemented",
    100100: "EntityTooLarge",
}


def element(name: str, *inside: str, attributes: str = "") -> str:
    """Return an element; `inside` is XML already."""
    return f"<{name}{attributes}>{''.join(inside)}</{name}>"


def text(name: str, value: object) -> str:
    """Return an element that holds a text."""
    return element(name, escape(str(value)))


def document(name: str, *inside: str) -> bytes:
    """Return a whole document."""
    root = element(name, *inside, attributes=f' xmlns="{NAMESPACE}"')
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{root}'.encode()


def refusal(error: Refusal) -> bytes:
    """Return why there is no result."""
    return failure(CODES.get(error.code, "InvalidRequest"), str(error))


def failure(code: str, message: str) -> bytes:
    """Return S3's word for what is wrong, and a sentence."""
    body = element("Error", text("Code", code), text("Message", message))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()


def storage_class(found: Found) -> str:
    """Return an object's class in S3's words."""
    return "STANDARD_IA" if found.kept.storage_class == INFREQUENT else "STANDARD"


def listing(bucket: str, page: Page, objects: Iterable[Found], asked: Mapping[str, str]) -> bytes:
    """Return a page of a bucket, in the first or the second of S3's forms."""
    second = asked.get("list-type") == "2"

    def name(value: str) -> str:
        return quote(value, safe="/") if asked.get("encoding-type") == "url" else value

    contents = [
        element(
            "Contents",
            text("Key", name(found.key)),
            text("LastModified", iso(found.uploaded_ms / 1000)),
            text("ETag", f'"{found.etag}"'),
            text("Size", found.size),
            text("StorageClass", storage_class(found)),
        )
        for found in objects
    ]
    prefixes = [element("CommonPrefixes", text("Prefix", name(one))) for one in page.prefixes]
    last = max([*page.keys, *page.prefixes], key=str.encode, default="")
    following = (
        text("NextContinuationToken", page.cursor) if second else text("NextMarker", name(last))
    )
    said = [
        text(element_name, name(asked[parameter]))
        for parameter, element_name in (
            ("delimiter", "Delimiter"),
            ("marker", "Marker"),
            ("start-after", "StartAfter"),
        )
        if parameter in asked
    ]
    return document(
        "ListBucketResult",
        text("Name", bucket),
        text("Prefix", name(asked.get("prefix", ""))),
        text("MaxKeys", asked.get("max-keys", "1000")),
        *said,
        *([text("EncodingType", "url")] if asked.get("encoding-type") == "url" else []),
        *([text("KeyCount", len(page))] if second else []),
        text("IsTruncated", "true" if page.cursor else "false"),
        *([following] if page.cursor else []),
        *contents,
        *prefixes,
    )
