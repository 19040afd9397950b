"""From photos or a video to a scene: where each photo was taken from, by structure from motion with COLMAP.

COLMAP (through pycolmap, the extra `sfm`) works in a process of its own, `gns.sfm.worker`: a process that has imported
pycolmap aborts when Pillow saves a PNG, and a crash there leaves everything else alone.
"""
