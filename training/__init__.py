"""Support the loop of train_eval.py with everything around it.

| file | what it does |
|---|---|
| `program.py` | turns a configuration into data, network and trainer; trains or tests |
| `session.py`, `before_torch.py` | before torch is loaded: signals, the run folder, threads |
| `launch.py` | torchrun for SLURM jobs, which waits until its processes have saved |
| `resuming.py`, `test_only.py` | go on with a run; choose what is evaluated |
| `initial_weights.py` | starts a run from another one's weights |
| `activation.py` | the run's activation: its factory, its kernels, notes on its flags |
| `custom_activation.py` | takes the user's own activation into a run, and on record |
| `task.py` | says what the loop asks of a task and of a loader |
| `objective.py` | computes a batch's loss, in mixed precision and compiled |
| `optimization.py`, `optimizers.py` | what the optimizer and weight decay act on; the libraries |
| `layer_decay.py`, `freezing.py` | fine-tuning: learning rates by layer; what is not trained |
| `schedule.py` | the learning rate of each step |
| `weight_average.py` | --ema: an average of the weights beside them |
| `evaluation.py` | metrics and predictions of a whole split |
| `further_tests.py` | --also_test: the same of test sets beside the test split |
| `state.py` | how far a run has come, and how often it is saved |
| `run_log.py`, `environment.py` | what a run writes of itself |
| `model_text.py` | the activations of a network, and its text for model.txt |
| `live_progress.py` | how an epoch goes on, for `report.py --watch` |
| `log_sinks.py` | --log: TensorBoard, Weights & Biases, CSV |
| `devices.py`, `processes.py`, `sync_batchnorm.py` | the device; several processes |
| `common_draws.py` | stochastic depth and dropout, the same for any number of processes |
| `sharding.py` | --shard: a network that the processes share |
| `recompute.py`, `blocks.py` | --activation_checkpointing; the repeated blocks of a network |
| `random_state.py`, `signals.py` | random generators; being stopped from outside |
| `diagnostics/` | --stats: a look into the network while it trains |
"""
