"""Profiles on the Hugging Face Hub, by its client's own mixin; needs huggingface_hub, not torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download

from foreseer.methods.profile_card import FILE_NAME, THUMBNAIL_NAME

if TYPE_CHECKING:
    from foreseer.methods.profile import Profile


class HubProfile(ModelHubMixin):
    """A profile with the Hub's methods: ``from_pretrained``, ``save_pretrained``, ``push_to_hub``.

    Attributes:
        profile: the profile; set by :meth:`of`, as the mixin writes the arguments of a constructor to ``config.json``.
        file: the downloaded file; set by ``from_pretrained``.
    """

    profile: Profile
    file: str

    @classmethod
    def of(cls, profile: Profile) -> HubProfile:
        """Return ``profile`` with the Hub's methods."""
        hosted = cls()
        hosted.profile = profile
        return hosted

    def _save_pretrained(self, save_directory: Path) -> None:
        self.profile.save(save_directory / FILE_NAME)
        if self.profile.thumbnail is not None:
            (save_directory / THUMBNAIL_NAME).write_bytes(self.profile.thumbnail)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> HubProfile:
        hosted = cls()
        hosted.file = hf_hub_download(model_id, FILE_NAME, **options)
        return hosted

    def generate_model_card(self, *args: Any, repo_id: str = "OWNER/NAME", **kwargs: Any) -> ModelCard:
        """Return the profile's own card."""
        return ModelCard(self.profile.card(repo_id))
