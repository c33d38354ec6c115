"""Multipart bodies: fields as text, files as bytes, all in memory."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import UploadFile
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


async def read_form(http: Request, service: Service) -> Form:
    """The body as a form; raises ApiError for another body."""
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
    fields: dict[str, object] = {}
    files: dict[str, list[bytes]] = {}
    for name, value in parsed.multi_items():
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
    await parsed.close()
    return Form(fields, files)
