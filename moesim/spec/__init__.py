"""What the user writes: scenario, model, hardware, engine, workload, routing. No arithmetic of performance."""
