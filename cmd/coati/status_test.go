package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/gateway/control"
)

func TestStatusForPeople(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *time.Time { then := now.Add(-d); return &then }
	retry := now.Add(4 * time.Second)
	s := control.Status{
		Gateway: control.Gateway{
			PID: 7, Started: *ago(90 * time.Minute), TUN: "coati0", MTU: 1422, Queues: 2, TUNOffloads: "vnet-hdr, tso", Ciphers: "vaes512", QueueFrames: []control.Queue{{Read: 5, Written: 6}, {}},
			Sockets: []control.Socket{{Address: "udp 0.0.0.0:4500", Sockets: 2, Offloads: "gso"}}, Drops: map[string]uint64{"unknown spi": 2, "ike queue full": 1},
			DropCounts:  []control.Drop{{Reason: "ike queue full", Packets: 1}, {Reason: "unknown spi", XFRM: "XfrmInNoStates", Packets: 2}},
			LastRefused: &control.Refused{At: *ago(time.Hour), Peer: "192.0.2.9:500", Reason: "add a tunnel"},
			Guard:       &control.Guard{Packets: 3, Octets: 252},
		},
		Tunnels: []control.Tunnel{
			{
				Name: "a", State: control.StateUp, Remote: "192.0.2.2", LastError: "the peer refuses the child dmz", NoPath: "no route to 192.0.2.2",
				IKE: []control.IKE{{
					State: "established", Initiator: true, Local: "192.0.2.1:4500", Remote: "192.0.2.2:4500", LocalID: "fqdn:a", RemoteID: "fqdn:b",
					LocalSPI: "01", RemoteSPI: "02", Proposal: "aes128gcm16-prfsha256-x25519", Established: ago(time.Minute), NATRemote: true,
				}},
				Children: []control.Child{
					{Name: "lan", State: control.StateUp, SAs: []control.Pair{{
						State: "up", Proposal: "aes128gcm16-esn", Mode: "tunnel", Encap: "udp", Established: *ago(time.Minute),
						In:      control.SA{SPI: "0x00000100", Packets: 3, Octets: 252, Drops: map[string]uint64{"replayed or too old": 1}},
						Out:     control.SA{SPI: "0x00000200", Packets: 4000, Octets: 5 << 20},
						LocalTS: []string{"10.1.0.0/16"}, RemoteTS: []string{"10.2.0.0/16"},
					}}},
					{Name: "dmz", State: control.StateDown, LocalTS: []string{"10.1.0.0/16"}, RemoteTS: []string{"10.3.0.0/16"}},
				},
			},
			{Name: "b", State: control.StateDown, Remote: "b.example", LastError: "no answer", RetryAt: &retry, LastRefused: &control.Refused{At: *ago(12 * time.Second), Peer: "192.0.2.3:4500", Reason: "the key differs"}},
		},
	}
	var b strings.Builder
	if err := printStatus(&b, s, now); err != nil {
		t.Fatal(err)
	}
	want := `gateway  coati0  pid 7  up 1h30m0s  mtu 1422  2 queues  offloads vnet-hdr, tso
         ciphers by vaes512
         udp 0.0.0.0:4500  2 sockets  offloads gso
         queue 0  5 frames out  6 frames in
         queue 1  0 frames out  0 frames in
         guard: 3 packets
         dropped: ike queue full  -               1
         dropped: unknown spi     XfrmInNoStates  2
         refused  1h0m0s ago  192.0.2.9:500  add a tunnel

a  up  because the peer refuses the child dmz
  no path  no route to 192.0.2.2
  ike  established  192.0.2.1:4500 [fqdn:a] - 192.0.2.2:4500 [fqdn:b]  spi 01 02  initiator  aes128gcm16-prfsha256-x25519  age 1m0s  peer is behind nat
  child  state  spi in      spi out     cipher           via  age   received         sent                  dropped                    traffic
  lan    up     0x00000100  0x00000200  aes128gcm16-esn  udp  1m0s  3 packets 252 B  4000 packets 5.0 MiB  in: 1 replayed or too old  10.1.0.0/16 - 10.2.0.0/16
  dmz    down   -           -           -                -    -     -                -                     -                          10.1.0.0/16 - 10.3.0.0/16

b  down  peer b.example  because no answer  next attempt in 4s
  refused  12s ago  192.0.2.3:4500  the key differs
  child  state  spi in  spi out  cipher  via  age  received  sent  dropped  traffic
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}
