"""Tasks, their simulators and the gaps between simulation and reality."""
