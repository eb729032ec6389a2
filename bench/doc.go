// Package bench measures Coati beside its peers, in one run on one machine.
//
//	crypto.go      ciphers alone: esp/batch beside Go's own calls
//	ike.go         handshakes a second: two engines joined by nothing but datagrams
//	path.go        the plan of a path run: which measure, which contenders, in which order
//	host.go        two gateways in network namespaces, joined by a veth link; all of it removed again
//	wireguard.go   wireguard-go in a process of its own
//	contender.go   what carries the traffic: Coati, wireguard-go, strongSwan, or nothing
//	tcp.go         iperf3
//	udp.go         a batch generator and a sink, and the search for the rate that is carried
//	latency.go     round trips of small datagrams, one at a time
//	cost.go        processor time and memory of the gateways
//	stages.go      what each stage of the data path takes of it
//	statistics.go  medians, spread, bootstrap intervals
//	report.go      what came of it; table.go, markdown.go, plot.go show it
//	progress.go    how far a run is
//
// Every contender has a pair of hosts of its own, all of them up through the whole run, and they take turns: A B A B. So
// what a busy machine does to one it does to the others, and ratios, with their intervals, are what to look at.
//
// Sizes of packets are of the inner IPv4 packet, in octets. Throughput of TCP is payload. A gigabit is 10^9 bits.
package bench
