"""Where and how numbers are computed: device, precision, random streams, memory, clusters."""
