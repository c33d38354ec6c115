"""Multipart bodies: fields as text, files as bytes, all in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from omni_diffusion.serving.faults import ApiError
from omni_diffusion.serving.service import Service

MOST_FIELDS, MOST_FILES = 64, 8
FIELD_BYTES = 2**18


@dataclass(frozen=True)
class Form:
    """fields: text by name, a list where a name is given several times. files: bytes by name."""

    fields: dict[str, object]
    files: dict[str, list[bytes]]

    def file(self, *names: str) -> bytes:
        """The one file under any of these names; raises ApiError for none or several."""
        found = [data for name in names for data in self.files.get(name, [])]
        if not found:
            raise ApiError(
                400, f"Missing required parameter: '{names[0]}'.", param=names[0],
                code="missing_required_parameter",
            )  # fmt: skip
        if len(found) > 1:
            raise ApiError(
                400, f"'{names[0]}' has {len(found)} files; this model takes one", param=names[0],
                code="invalid_value",
            )  # fmt: skip
        if not found[0]:
            raise ApiError(400, f"'{names[0]}' is empty", param=names[0], code="invalid_value")
        return found[0]


class _InMemory(MultiPartParser):
    """Never writes a file to disk: the body's limit holds for all files together."""

    spool_max_size = 2**40


async def read_form(http: Request, service: Service, *expected: str) -> Form:
    """The body as a form with files of the `expected` names; raises ApiError for another body."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(
            415, f"the content type is {kind or 'missing'!r}; send multipart/form-data",
            code="unsupported_media_type",
        )  # fmt: skip
    parser = _InMemory(
        http.headers, http.stream(), max_files=MOST_FILES, max_fields=MOST_FIELDS,
        max_part_size=FIELD_BYTES,
    )  # fmt: skip
    try:
        parsed = await parser.parse()
    except (MultiPartException, UnicodeError, KeyError) as error:
        raise ApiError(400, f"the form cannot be read ({error})", code="invalid_form") from error
    try:
        return await _sorted(parsed, expected)
    finally:
        await parsed.close()


async def _sorted(parsed: FormData, expected: Sequence[str]) -> Form:
    fields: dict[str, object] = {}
    files: dict[str, list[bytes]] = {}
    for name, value in parsed.multi_items():
        if isinstance(value, UploadFile) != (name in expected):
            raise _of_other_kind(name, expected)
        if isinstance(value, UploadFile):
            files.setdefault(name, []).append(await value.read())
        elif name.endswith("[]"):
            held = fields.setdefault(name, [])
            assert isinstance(held, list)
            held.append(value)
        elif name in fields:
            raise ApiError(400, f"'{name}' is given twice", param=name, code="invalid_value")
        else:
            fields[name] = value
    return Form(fields, files)


def _of_other_kind(name: str, expected: Sequence[str]) -> ApiError:
    if name in expected:
        message = f"'{name}' is text; send it as a file, which has a file name"
        return ApiError(400, message, param=name, code="invalid_type")
    message = f"'{name}' is a file; the files here are {' and '.join(expected)}"
    return ApiError(400, message, param=name, code="unknown_parameter")
