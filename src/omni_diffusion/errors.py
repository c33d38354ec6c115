"""Every error that a user's mistake can cause, in one tree; catch OmniError to catch them all.

OmniError
├── StorageError      a file could not be written: disk full, no permission, missing folder
├── ConfigError       a config holds an unknown key, a wrong type or sizes that do not fit
├── MediaError        sound or picture is empty, broken, too large or of an unknown format
├── VocabularyError   an id or a token name lies outside of the vocabulary
├── CanvasError       a canvas does not fit together, or a given place would be overwritten
├── WeightsError      weights are missing, corrupt, unsafe or of another shape than the module's
├── ModelError        a model folder is incomplete, or a model is called with what it cannot take
├── TaskError         a conversation does not fit the task, or the task is unknown
├── SamplingError     sampling parameters contradict themselves
├── DataError         a manifest or a pretokenized store is broken
├── TrainingError     training cannot start, resume or go on
└── EvaluationError   a benchmark or its answers cannot be scored

A message is one line: the value, what was expected, and the fix. The one exception is the table
of names in a WeightsError. Programming mistakes stay what Python makes of them.
"""

from __future__ import annotations


class OmniError(Exception):
    """Root of the tree: `problem`, and the `fix` behind it where it is given apart.

    field: the parameter or field that is wrong, by its Python name (`max_length`); the command line
    shows its option instead. value: what was given for it.
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
    """A file could not be written."""


class ConfigError(OmniError):
    """A config holds an unknown key, a wrong type or sizes that do not fit."""


class MediaError(OmniError):
    """Sound or picture is empty, broken, too large or of an unknown format."""


class VocabularyError(OmniError):
    """An id or a token name lies outside of the vocabulary."""


class CanvasError(OmniError):
    """A canvas does not fit together, or a given place would be overwritten."""


class WeightsError(OmniError):
    """Weights are missing, corrupt, unsafe or of another shape than the module's."""


class ModelError(OmniError):
    """A model folder is incomplete, or a model is called with what it cannot take."""


class TaskError(OmniError):
    """A conversation does not fit the task, or the task is unknown."""


class SamplingError(OmniError):
    """Sampling parameters contradict themselves."""


class DataError(OmniError):
    """A manifest or a pretokenized store is broken."""


class TrainingError(OmniError):
    """Training cannot start, resume or go on."""


class EvaluationError(OmniError):
    """A benchmark or its answers cannot be scored."""
