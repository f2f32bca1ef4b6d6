"""Running a sweep: kinds of trial, the trial table and its pruner, Ray Tune."""
