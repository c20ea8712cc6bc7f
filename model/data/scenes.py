"""What a scene is: all clips of one source, or one clip without a source. Scenes are never parted
by a split, and a network is measured on scenes that it was not trained on.
"""

import hashlib


def scene_digest(source: str | None, clip_id: str) -> str:
    """Sixteen hexadecimal digits that name a scene in a checkpoint, without telling its path."""
    return hashlib.sha256((source or clip_id).encode()).hexdigest()[:16]
