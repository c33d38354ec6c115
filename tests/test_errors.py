import inspect

from omni_diffusion import errors


def test_every_error_is_an_omni_error_and_stands_in_the_drawn_tree() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    drawn = errors.__doc__ or ""
    for error in classes:
        assert issubclass(error, errors.OmniError)
        assert f" {error.__name__} " in drawn or drawn.splitlines()[2] == error.__name__
        assert error.__doc__
    assert drawn.count("──") == len(classes) - 1
