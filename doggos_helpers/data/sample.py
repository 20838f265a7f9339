"""The embedded sample as a data set: drawing it, and its errors as ours."""

from collections.abc import Callable, Iterator, Sequence

from doggos_helpers.data.files import open_root
from doggos_helpers.errors import DoggosError, SettingsError, StorageError, causes
from doggos_sample.job import Job, Part, PartsUnseen, SampleError, Written
from doggos_sample.writer import write


def draw_sample(
    out: str,
    images_per_breed: int = 60,
    seed: int = 0,
    progress: bool = False,
    run: Callable[[Sequence[Part]], Iterator[int]] | None = None,
) -> Written:
    """Draw the sample to a folder or URI; see `doggos_sample.write_dataset`.

    Raises:
        SettingsError: A number is out of range, or something else is there.
        StorageError: It can't be written there, or not by all workers.
        DataError: No file system is known for the URI.
    """
    try:
        filesystem, base = open_root(out)
        return write(base, Job(images_per_breed, seed, run, progress), filesystem)
    except PartsUnseen as error:
        raise StorageError(*error.args) from None
    except SampleError as error:
        raise SettingsError(*error.args) from None
    except DoggosError:
        raise
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, OSError):
                why = (cause.strerror or str(cause))[:200].lower()
                raise StorageError(
                    f"can't write the sample ({why})",
                    out,
                    "Check the address, its permissions and its space, or name another",
                ) from error
        raise
