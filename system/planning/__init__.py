"""What a run will do, before it does anything: samples, steps, arithmetic, memory, disk, time."""
