"""Models on the Hub: whether they exist, and their configuration, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foreseer import zoo
from foreseer.errors import in_one_line, naming_the_extra
from foreseer.pipelines.loading import PipelineError, check_model

INDEXES = ("model_index.json", "modular_model_index.json")
CONFIGURED = ("vae", "transformer", "unet")
PATIENCE = 10.0  # seconds


def locate_model(model: str) -> Path:
    """Return the folder of a model's configuration: its own, or one in the Hub's local cache.

    The configuration of a model that is not in the cache is downloaded: some KB.

    Raises:
        PipelineError: there is no such model, it is not a diffusers pipeline's, or the Hub cannot be reached.
    """
    folder = check_model(model)
    if folder.is_dir() or model in zoo.NAMES:
        return folder
    with naming_the_extra():
        from huggingface_hub import constants, try_to_load_from_cache
    for index in INDEXES:
        cached = try_to_load_from_cache(model, index)
        if isinstance(cached, str):
            return Path(cached).parent
    if constants.HF_HUB_OFFLINE:
        raise PipelineError(
            f"{model!r} is not in the local cache, and the Hub is switched off (HF_HUB_OFFLINE): unset it to download "
            "the model, or give a folder."
        )
    return _download(model)


def _download(model: str) -> Path:
    """Download a model's index and the configuration of its networks; return their folder."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        files = _files(HfApi().model_info(model, timeout=PATIENCE))
        indexes = [name for name in INDEXES if name in files]
        if not indexes:
            raise PipelineError(f"{model!r} on the Hub holds no {INDEXES[0]}: it is not a diffusers pipeline.")
        named = [name for part in CONFIGURED if (name := f"{part}/config.json") in files]
        return Path([hf_hub_download(model, name) for name in (*named, indexes[0])][-1]).parent
    except GatedRepoError as error:
        raise PipelineError(
            f"{model!r} is gated: accept its terms on its page on the Hub, and log in (hf auth login)."
        ) from error
    except RepositoryNotFoundError as error:
        raise PipelineError(
            f"There is no model {model!r} on the Hub, or it is private: check the name, or log in (hf auth login)."
        ) from error
    except HfHubHTTPError as error:
        raise PipelineError(f"The Hub does not serve {model!r}: {in_one_line(error)}.") from error
    except PipelineError:
        raise
    except Exception as error:  # the Hub's client and its HTTP library raise many kinds
        raise PipelineError(
            f"{model!r} is not in the local cache, and the Hub cannot be reached ({in_one_line(error)}): check the "
            "connection, or give a folder."
        ) from error


def _files(information: Any) -> set[str]:
    return {each.rfilename for each in information.siblings or ()}
