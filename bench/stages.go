package bench

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Where a gateway's processor time goes: a pair of gateways of its own carries one TCP stream while the runtime samples
// them 100 times a second of processor time, kernel included. Every sample counts for the innermost of the stages below
// that its stack is in.

const (
	// profileEnv names the file a gateway writes its processor profile to when it ends.
	profileEnv = "COATI_CPU_PROFILE"
	// stageStream is how long the stream runs, in terms of the other streams: it runs once.
	stageStream = 3
)

// StageCost is what one stage takes of both gateways' processor time.
type StageCost struct {
	Stage      string  `json:"stage"`
	Share      float64 `json:"share"`
	PerGigabit float64 `json:"ms_per_gigabit"`
	Samples    int64   `json:"samples"`
}

// otherStage is for what no row of stages claims: the scheduler, the poller, IKE, the profile itself.
const otherStage = "scheduler and the rest"

// stages in the order a packet passes them. A function belongs to the first whose prefix it begins with and whose word, if
// there is one, it has.
var stages = []struct{ name, prefix, word string }{
	{"tun read", "coati/tun.(*Queue).ReadFrame", ""},
	{"segment, checksum", "coati/esp.(*plan).build", ""},
	{"seal", "coati/esp/batch.", "seal"},
	{"socket send", "coati/gateway.(*egress).SendESP", ""},
	{"socket receive", "coati/tun.(*UDPSocket).ReceiveAll", ""},
	{"open", "coati/esp/batch.", "open"},
	{"join, checksum", "coati/esp.(*joiner)", ""},
	{"tun write", "coati/gateway.(*queue).WriteFrame", ""},
	{"policy, headers, windows", "coati/esp.", ""},
}

// stageOf finds the stage of a stack, the innermost function first.
func stageOf(stack []string) string {
	for _, function := range stack {
		for _, s := range stages {
			if strings.HasPrefix(function, s.prefix) && strings.Contains(strings.ToLower(function), s.word) {
				return s.name
			}
		}
	}
	return otherStage
}

// takeStages measures the stages of a pair of Coatis.
func takeStages(ctx context.Context, g *ground, seconds int, r *Report) error {
	c := &contender{Contender: Contender{Name: "coati-stages"}, rates: map[string]float64{}}
	var err error
	if c.a, c.b, err = g.newPair(c.Name); err != nil {
		return err
	}
	c.env = func(h *host) []string { return []string{profileEnv + "=" + filepath.Join(h.dir, "cpu.pprof")} }
	if err := errors.Join(startCoati(ctx, c, "udp", false), c.reachable(ctx), c.serveTCP(ctx)); err != nil {
		return err
	}
	s, err := c.tcp(ctx, stageStream*seconds, 1, false)
	if err != nil {
		return err
	}
	counts := map[string]int64{}
	var all int64
	for i, h := range []*host{c.a, c.b} {
		c.gateways[i].end()
		text, err := os.ReadFile(filepath.Join(h.dir, "cpu.pprof"))
		if err != nil {
			return fmt.Errorf("a gateway wrote no profile: %w", err)
		}
		samples, err := parseProfile(text)
		if err != nil {
			return err
		}
		for _, x := range samples {
			counts[stageOf(x.stack)] += x.count
			all += x.count
		}
	}
	if all == 0 {
		return errors.New("the profiles hold no samples")
	}
	r.Stages = r.Stages[:0]
	for _, st := range stages {
		r.addStage(st.name, counts[st.name], all, s[costPerGigabit])
	}
	r.addStage(otherStage, counts[otherStage], all, s[costPerGigabit])
	return nil
}

func (r *Report) addStage(name string, n, all int64, perGigabit float64) {
	share := float64(n) / float64(all)
	r.Stages = append(r.Stages, StageCost{Stage: name, Share: share, PerGigabit: share * perGigabit, Samples: n})
}

// stackSample is one row of a processor profile.
type stackSample struct {
	stack []string // function names, the innermost first
	count int64
}

var errProfile = errors.New("not a processor profile")

// field is one field of a protocol buffer: a number, or octets.
type field struct {
	id     uint64
	number uint64
	octets []byte
}

// fields splits a message of protocol buffers (the wire types 0 and 2, all that a profile has).
func fields(b []byte) (out []field, err error) {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errProfile
		}
		b = b[n:]
		value, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errProfile
		}
		b = b[n:]
		f := field{id: tag >> 3, number: value}
		switch tag & 7 {
		case 0:
		case 2:
			if value > uint64(len(b)) {
				return nil, errProfile
			}
			f.octets, b = b[:value], b[value:]
		default:
			return nil, errProfile
		}
		out = append(out, f)
	}
	return out, nil
}

// numbers of a repeated field, packed or not.
func (f field) numbers() (out []uint64) {
	if f.octets == nil {
		return []uint64{f.number}
	}
	for b := f.octets; len(b) > 0; {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			break
		}
		out, b = append(out, v), b[n:]
	}
	return out
}

// parseProfile reads what runtime/pprof writes: github.com/google/pprof/blob/main/proto/profile.proto.
func parseProfile(text []byte) ([]stackSample, error) {
	const sampleField, locationField, functionField, stringField = 2, 4, 5, 6
	z, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProfile, err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProfile, err)
	}
	top, err := fields(plain)
	if err != nil {
		return nil, err
	}
	var texts []string
	functions := map[uint64]uint64{}   // the text of each one's name
	locations := map[uint64][]uint64{} // functions, the innermost first
	for _, f := range top {
		parts, err := fields(f.octets)
		switch f.id {
		case stringField:
			texts = append(texts, string(f.octets))
		case functionField:
			if err != nil {
				return nil, err
			}
			functions[first(parts, 1)] = first(parts, 2)
		case locationField:
			if err != nil {
				return nil, err
			}
			id := first(parts, 1)
			for _, line := range parts {
				if line.id != 4 {
					continue
				}
				inside, err := fields(line.octets)
				if err != nil {
					return nil, err
				}
				locations[id] = append(locations[id], first(inside, 1))
			}
		}
	}
	var out []stackSample
	for _, f := range top {
		if f.id != sampleField {
			continue
		}
		parts, err := fields(f.octets)
		if err != nil {
			return nil, err
		}
		var s stackSample
		for _, p := range parts {
			switch {
			case p.id == 1:
				for _, at := range p.numbers() {
					for _, function := range locations[at] {
						if name := functions[function]; name < uint64(len(texts)) {
							s.stack = append(s.stack, texts[name])
						}
					}
				}
			case p.id == 2 && s.count == 0:
				if v := p.numbers(); len(v) > 0 {
					s.count = int64(v[0])
				}
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func first(parts []field, id uint64) uint64 {
	at := slices.IndexFunc(parts, func(f field) bool { return f.id == id })
	if at < 0 {
		return 0
	}
	return parts[at].number
}
