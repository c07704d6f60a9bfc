"""The processes that train together: one alone, or several on a cluster."""

from gpt2kw.model.backend import tf


class Team:
    """What the processes of a run agree on. One alone agrees with itself.

    Where there are several, all must call the same methods in the same order, each of
    which waits for all of them if not said otherwise.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, *, processes: int = 1, chief: bool = True
    ) -> None:
        """Take part with a strategy that spans all processes.

        The chief decides, and writes down what there is to write.
        """
        self.strategy = strategy
        self.chief = chief
        self._alone = processes == 1
        # A process counts once for each of its devices.
        self._devices = strategy.num_replicas_in_sync // processes
        self._wished: tf.Tensor | None = None
        self._summed = tf.function(self._sum, input_signature=[tf.TensorSpec([], tf.float64)])

    def agree(self, wish: bool) -> bool:
        """Return what the chief wished: at the call before this one if it is not alone.

        The answer to a question of just now would make the devices wait for it.
        """
        if self._alone:
            return wish
        before, self._wished = self._wished, self._of_chief(wish)
        return before is not None and bool(before)

    def of_chief(self, number: int) -> int:
        """Return the chief's number, below 2**53."""
        return number if self._alone else int(self._of_chief(number))

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.of_chief(0)

    def _of_chief(self, number: int) -> tf.Tensor:
        return self._summed(tf.constant(float(number if self.chief else 0), tf.float64))

    def _sum(self, number: tf.Tensor) -> tf.Tensor:
        def one(number: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # What is computed here has a device, on which the sum is made.
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(number))

        sums = self.strategy.run(one, args=(number,))
        return self.strategy.experimental_local_results(sums)[0] / self._devices
