// Package lab runs Coati against real peers: strongSwan with userspace ESP, ike-scan, hostile
// datagrams and Coati itself, each on hosts that are network namespaces of this machine, with
// tshark as the judge of what was on the wire.
//
//	Host, Pair     namespaces joined by a veth link; processes in them; what is left is removed
//	Machine        what a host's kernel holds (links, routes, rules, sysctls, nftables), to compare
//	Capture        tcpdump that is known to run, and known to have seen the last packet
//	Charon, Coati  the daemons
//	Judge          tshark over a capture and a key log: every message and packet must open
//	Stream, Ping   traffic that counts what was lost, doubled or reordered
//	Cannon         random and mutated datagrams, as UDP and as protocol 50
//	Table          peer x role x case; a declared cell that no test filled fails the run
//
// All of it needs root and the programs that lab/install.sh brings; without root the tests skip.
//
// A Host owns its processes: they end with the test (or, by the parent-death signal, with the
// test binary), and namespaces whose test binary is dead are removed by the next run. Every test
// has a folder for what its processes wrote; it is kept, and its tails are printed, when the
// test fails.
package lab
