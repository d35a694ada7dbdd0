class PipeNotifier:
    _PipeNotifier__pipeR: int
    _PipeNotifier__pipeW: int
    def notify(self) -> None: ...
