"""The tree of errors that a user's input can cause; catch OmniError to catch them all.

OmniError
├── StorageError             a file cannot be written: disk full, no permission, missing folder
├── ConfigError              a config has an unknown key, a wrong type or sizes that do not fit
├── MissingDependencyError   an optional library is not installed
├── MediaError               audio or an image is empty, broken, too large or of an unknown format
├── VocabularyError          an id or a token name is outside the vocabulary
├── CanvasError              the parts of a canvas do not fit, or a known token would be overwritten
├── WeightsError             weights are missing, corrupt, unsafe or have another shape
├── ModelError               a model folder is incomplete, or a model cannot take an input
├── TaskError                a conversation does not fit the task, or the task is unknown
├── SamplingError            sampling parameters contradict one another
├── DataError                a manifest or a pretokenized store is broken
├── TrainingError            training cannot start, resume or continue
└── EvaluationError          a benchmark or its answers cannot be scored

A message is one line: the value, what was expected, and the fix. The table of names in a
WeightsError is the one exception. Programming mistakes stay Python's own exceptions.
"""

from __future__ import annotations


class OmniError(Exception):
    """Root of the tree. Its text is `problem`, followed by `fix` if that is given separately.

    field: Python name of the wrong parameter or field (`max_length`); the command line shows its
    option instead. value: the value it had.
    """

    def __init__(
        self,
        problem: str = "",
        *,
        field: str | None = None,
        value: object = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(f"{problem}; {fix}" if fix else problem)
        self.field, self.value, self.fix = field, value, fix


class StorageError(OmniError):
    """A file cannot be written."""


class ConfigError(OmniError):
    """A config has an unknown key, a wrong type or sizes that do not fit."""


class MissingDependencyError(OmniError):
    """An optional library is not installed."""


class MediaError(OmniError):
    """Audio or an image is empty, broken, too large or of an unknown format."""


class VocabularyError(OmniError):
    """An id or a token name is outside the vocabulary."""


class CanvasError(OmniError):
    """The parts of a canvas do not fit, or a known token would be overwritten."""


class WeightsError(OmniError):
    """Weights are missing, corrupt, unsafe or have another shape than the module's."""


class ModelError(OmniError):
    """A model folder is incomplete, or a model cannot take an input."""


class TaskError(OmniError):
    """A conversation does not fit the task, or the task is unknown."""


class SamplingError(OmniError):
    """Sampling parameters contradict one another."""


class DataError(OmniError):
    """A manifest or a pretokenized store is broken."""


class TrainingError(OmniError):
    """Training cannot start, resume or continue."""


class EvaluationError(OmniError):
    """A benchmark or its answers cannot be scored."""
