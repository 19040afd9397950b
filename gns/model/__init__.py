"""What has one row per Gaussian, and how it is stepped."""
