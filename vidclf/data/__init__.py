"""Clips from files to arrays: manifests, splits, decoding, the clip store, augmentation."""
