"""The built-in world as videos for the page: filmed when they are asked for, and kept while the server runs."""

import asyncio
import tempfile
from pathlib import Path

# A page plays one after another; after so many they begin again.
CLIPS = 16
_CLIP_S = 12.0
_SIZE_PX, _FPS = 256, 25
# No training takes clips of this seed.
_SEED = 20_240_229


class WorldClips:
    """Films clips, one at a time, and the next one while one is watched."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mmduplex-world-")
        self._filming = asyncio.Lock()
        self._clips: dict[int, Path] = {}
        self._ahead: asyncio.Task[Path] | None = None

    async def clip(self, index: int) -> Path:
        """The mp4 of the `index`-th clip, in H.264, as browsers play it.

        Raises:
          ValueError: this PyAV has no encoder for it.
        """
        path = await self._filmed(index % CLIPS)
        if self._ahead is None or self._ahead.done():
            self._ahead = asyncio.create_task(self._filmed((index + 1) % CLIPS))
        return path

    async def close(self) -> None:
        """Removes the videos."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)
        # A film that is being made is waited for: it is written into the folder.
        async with self._filming:
            self._folder.cleanup()

    async def _filmed(self, number: int) -> Path:
        async with self._filming:
            if number not in self._clips:
                # (A request that is cancelled leaves the thread to its end, with the lock.)
                filming = asyncio.get_running_loop().run_in_executor(None, self._film, number)
                self._clips[number] = await _to_its_end(filming)
            return self._clips[number]

    def _film(self, number: int) -> Path:
        from data_pipelines.world import WorldConfig
        from data_pipelines.world.clip import write_clip_files

        config = WorldConfig(look="plain", clip_s=_CLIP_S)
        files = write_clip_files(self._folder.name, config, _SEED, number, size_px=_SIZE_PX, fps=_FPS, codec="libx264")
        return files.video


async def _to_its_end(filming: "asyncio.Future[Path]") -> Path:
    """Waits for a thread also when whoever waits is cancelled, and passes the cancelling on after it."""
    try:
        return await asyncio.shield(filming)
    except asyncio.CancelledError:
        await asyncio.gather(filming, return_exceptions=True)
        raise
