"""Reduces the SDK dump that PyObjC ships in its source distributions to the JSON in `resources/apple-sdk`."""
