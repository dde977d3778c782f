"""What tests of several folders share: small problems, processes to kill, servers, tolerances."""
