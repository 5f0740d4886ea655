"""The kubelet's HTTPS API: who may ask, what is asked, and the streams of exec and attach.

`listener.Listener` is the whole server. It needs a `backend.Backend` (the pods of this node) and, unless clients are
not verified, a `reviews.Reviews` (the API server's opinion of tokens and permissions); it knows no room behind them.
"""
