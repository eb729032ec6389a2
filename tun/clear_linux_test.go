package tun

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// finish does what a virtio header of a single packet still asks for: the checksum.
func finish(frame []byte) []byte {
	const needsChecksum = 1
	packet := frame[HeaderSize:]
	if frame[0]&needsChecksum == 0 {
		return packet
	}
	start := int(binary.LittleEndian.Uint16(frame[6:]))
	at := start + int(binary.LittleEndian.Uint16(frame[8:]))
	var sum uint32
	for i := start; i < len(packet); i += 2 {
		if i+1 < len(packet) {
			sum += uint32(binary.BigEndian.Uint16(packet[i:]))
		} else {
			sum += uint32(packet[i]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(packet[at:], ^uint16(sum))
	return packet
}

// All of the peer's network is routed into the TUN. What a program sends to the peer comes to us; what
// we send, in any way, goes to the peer and never comes back to us.
func TestOurOwnPacketsKeepOutOfTheTUN(t *testing.T) {
	for _, c := range []struct {
		here, there netip.Addr
		net         string
	}{
		{here4, there4, "192.0.2.0/24"},
		{here6, there6, "2001:db8::/64"},
	} {
		t.Run(familyName(c.here.Is6()), func(t *testing.T) {
			n := enterNamespace(t)
			o := n.another(t)
			n.connect(t, o)
			h := openHost(t, "ctun0", t.TempDir())
			dev, err := h.OpenDevice(DeviceConfig{Queues: 1, MTU: 1400})
			ok(t, err)
			r, err := h.OpenRoutes(dev, RoutesConfig{})
			ok(t, err)
			ok(t, r.Add(Route{Dst: netip.MustParsePrefix(c.net), Src: c.here}))
			u, err := h.OpenUDP(UDPConfig{Local: netip.AddrPortFrom(c.here, 4500)})
			ok(t, err)
			raw, err := h.OpenRawESP(RawESPConfig{Local: c.here})
			ok(t, err)
			clr, err := h.OpenClear()
			ok(t, err)

			var peer *net.UDPConn
			var peerRaw *RawESP
			n.in(t, o, func() {
				peer = appSocket(t, netip.AddrPortFrom(c.there, 7))
				peerRaw, err = openHost(t, "ctun0", t.TempDir()).OpenRawESP(RawESPConfig{Local: c.there})
				ok(t, err)
			})
			peerAddr := netip.AddrPortFrom(c.there, 7)
			hears := func(want string) {
				t.Helper()
				buf := make([]byte, 100)
				n, _, err := peer.ReadFromUDPAddrPort(buf)
				ok(t, err)
				if got := string(buf[:n]); got != want {
					t.Errorf("the peer heard %q, want %q", got, want)
				}
			}
			app := appSocket(t, netip.AddrPortFrom(c.here, 9))
			frame := make([]byte, FrameSize)
			comes := func(want string) []byte {
				t.Helper()
				n, err := dev.Queues()[0].ReadFrame(frame, nil)
				ok(t, err)
				if got := string(frame[n-len(want) : n]); got != want {
					t.Errorf("the TUN gave %q, want %q", got, want)
				}
				return frame[:n]
			}

			_, err = app.WriteToUDPAddrPort([]byte("in clear"), peerAddr)
			ok(t, err)
			ok(t, clr.Send(finish(comes("in clear"))))
			hears("in clear")

			ok(t, u.Sockets()[0].Send(peerAddr, c.here, 0, []byte("by udp"), 0))
			hears("by udp")

			ok(t, raw.Send(c.there, c.here, 0, []byte("by raw esp"), 0))
			out := make([]Packet, 1)
			if _, err := peerRaw.Receive(buffers(1), out); err != nil || string(out[0].Data) != "by raw esp" {
				t.Errorf("the peer heard %q, %v", out[0].Data, err)
			}

			// Had one of them come to the TUN it would be read first.
			_, err = app.WriteToUDPAddrPort([]byte("next"), peerAddr)
			ok(t, err)
			comes("next")
		})
	}
}

func TestClearRefuses(t *testing.T) {
	n := enterNamespace(t)
	n.connect(t, n.another(t))
	clr, err := openHost(t, "ctun0", t.TempDir()).OpenClear()
	ok(t, err)
	packet4 := func(size int) []byte {
		b := make([]byte, size)
		b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		copy(b[16:20], there4.AsSlice())
		return b
	}
	packet6 := func(size int) []byte {
		b := make([]byte, size)
		b[0], b[6], b[7] = 0x60, unix.IPPROTO_UDP, 64
		binary.BigEndian.PutUint16(b[4:], uint16(size-40))
		copy(b[24:40], there6.AsSlice())
		return b
	}
	for name, c := range map[string]struct {
		packet []byte
		want   error
	}{
		"nothing":                {nil, errNotIP},
		"no header":              {[]byte{0x45}, errNotIP},
		"version 5":              {make([]byte, 100), errNotIP},
		"v4 of another length":   {packet4(100)[:99], errNotIP},
		"v6 of another length":   {packet6(100)[:99], errNotIP},
		"v4 larger than the mtu": {packet4(1501), ErrTooBig},
		"v6 larger than the mtu": {packet6(1501), ErrTooBig},
		"v4":                     {packet4(1500), nil},
		"v6":                     {packet6(1500), nil},
	} {
		if err := clr.Send(c.packet); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	p4, p6 := packet4(100), packet6(100)
	if allocs := testing.AllocsPerRun(100, func() {
		ok(t, clr.Send(p4))
		ok(t, clr.Send(p6))
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
