"""What makes photos of one scene look different from each other: the exposure and white balance of each."""
