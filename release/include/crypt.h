/* Python.h of 3.8 and older includes it and needs nothing of it; zig has none. */
