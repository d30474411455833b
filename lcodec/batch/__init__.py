"""Many files: finding them, planning their outputs, and working through them on threads or on a cluster.

Knows nothing of images or codecs: a `Worker` does that.
"""
