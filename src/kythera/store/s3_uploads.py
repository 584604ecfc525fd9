"""Uploads of many parts that are under way, and the parts of one, as S3's clients list them. Pure.

The engine's pages are told again: its names are keys here (`r2_keys`), its markers too.
"""

from collections.abc import Mapping
from urllib.parse import quote

from kythera.store.r2_keys import engine_name, key_of
from kythera.store.s3 import texts
from kythera.store.s3_answers import document, element, text

LISTED_MAX = 1_000


def _most(asked: Mapping[str, str], name: str) -> str:
    given = asked.get(name, "")
    return str(min(int(given[:9]), LISTED_MAX)) if given.isdecimal() else str(LISTED_MAX)


def uploads_question(asked: Mapping[str, str]) -> dict[str, str]:
    """Return what the engine is asked for a page of a bucket's uploads."""
    names = {name: asked[name] for name in ("prefix", "key-marker") if asked.get(name)}
    marker = {"upload-id-marker": asked["upload-id-marker"]} if "upload-id-marker" in asked else {}
    return {
        "uploads": "",
        "max-uploads": _most(asked, "max-uploads"),
        **{name: engine_name(key) for name, key in names.items()},
        **marker,
    }


def uploads(bucket: str, told: str, asked: Mapping[str, str]) -> bytes:
    """Return a page of a bucket's uploads from the engine's."""

    def name(key: str) -> str:
        return quote(key, safe="/") if asked.get("encoding-type") == "url" else key

    shown = [
        element(
            "Upload",
            text("Key", name(key_of(engines))),
            text("UploadId", upload),
            text("StorageClass", "STANDARD"),
            text("Initiated", moment),
        )
        for engines, upload, moment in zip(
            texts(told, "Key"), texts(told, "UploadId"), texts(told, "Initiated"), strict=True
        )
    ]
    more = texts(told, "IsTruncated", "false")[0] == "true"
    following = [
        text("NextKeyMarker", name(key_of(texts(told, "NextKeyMarker", "")[0]))),
        text("NextUploadIdMarker", texts(told, "NextUploadIdMarker", "")[0]),
    ]
    return document(
        "ListMultipartUploadsResult",
        text("Bucket", bucket),
        text("KeyMarker", name(asked.get("key-marker", ""))),
        text("UploadIdMarker", asked.get("upload-id-marker", "")),
        text("Prefix", name(asked.get("prefix", ""))),
        text("MaxUploads", _most(asked, "max-uploads")),
        *([text("EncodingType", "url")] if asked.get("encoding-type") == "url" else []),
        text("IsTruncated", "true" if more else "false"),
        *(following if more else []),
        *shown,
    )


def parts_question(asked: Mapping[str, str]) -> dict[str, str]:
    """Return what the engine is asked for a page of an upload's parts."""
    marker = asked.get("part-number-marker", "")
    return {
        "uploadId": asked["uploadId"],
        "max-parts": _most(asked, "max-parts"),
        **({"part-number-marker": marker} if marker.isdecimal() else {}),
    }


def parts(bucket: str, key: str, told: str, asked: Mapping[str, str]) -> bytes:
    """Return a page of an upload's parts from the engine's."""
    columns = ("PartNumber", "LastModified", "ETag", "Size")
    rows = zip(*(texts(told, column) for column in columns), strict=True)
    shown = [
        element("Part", *(text(column, value) for column, value in zip(columns, row, strict=True)))
        for row in rows
    ]
    more = texts(told, "IsTruncated", "false")[0] == "true"
    following = text("NextPartNumberMarker", texts(told, "NextPartNumberMarker", "0")[0])
    return document(
        "ListPartsResult",
        text("Bucket", bucket),
        text("Key", key),
        text("UploadId", asked["uploadId"]),
        text("StorageClass", "STANDARD"),
        text("PartNumberMarker", asked.get("part-number-marker", "0")),
        text("MaxParts", _most(asked, "max-parts")),
        text("IsTruncated", "true" if more else "false"),
        *([following] if more else []),
        *shown,
    )
