"""The built-in world as videos for the page: filmed when they are asked for, and kept while the server runs."""

import asyncio
import tempfile
from pathlib import Path

# A page plays one after another; after so many they begin again.
CLIPS = 16
_CLIP_S = 24.0
_SIZE_PX, _FPS = 256, 25
# No training takes clips of this seed.
_SEED = 20_240_229


class WorldClips:
    """Films clips, one at a time."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mmduplex-world-")
        self._filming = asyncio.Lock()
        self._clips: dict[int, Path] = {}

    async def clip(self, index: int) -> Path:
        """The mp4 of the `index`-th clip, in H.264, as browsers play it.

        Raises:
          ValueError: this PyAV has no encoder for it.
        """
        number = index % CLIPS
        async with self._filming:
            if number not in self._clips:
                self._clips[number] = await asyncio.to_thread(self._film, number)
        return self._clips[number]

    def close(self) -> None:
        """Removes the videos."""
        self._folder.cleanup()

    def _film(self, number: int) -> Path:
        from data_pipelines.world import WorldConfig
        from data_pipelines.world.files import write_clip_files

        config = WorldConfig(look="plain", clip_s=_CLIP_S)
        files = write_clip_files(self._folder.name, config, _SEED, number, size_px=_SIZE_PX, fps=_FPS, codec="libx264")
        return files.video
