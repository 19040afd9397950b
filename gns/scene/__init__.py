"""Scenes, cameras and the Gaussian model."""

from gns.scene.camera import Camera
from gns.scene.gaussians import Gaussians
from gns.scene.scene import PointCloud, Scene, View

__all__ = ["Camera", "Gaussians", "PointCloud", "Scene", "View"]
