package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"coati/policy/config"
	"coati/policy/legacy"
)

// sources are the configuration files of one gateway, by format.
type sources struct {
	native, scripts, racoon, ipsec, secrets []string

	static bool // fixed keys of counter modes are taken

	// latest is what the scripts said when everything was last read.
	latest *legacy.Script
}

type format struct {
	name  string
	looks func([]byte) bool // nil: what no other format is
	files func(*sources) *[]string
}

// formats in the order in which they are told apart.
var formats = []format{
	{"setkey", legacy.LooksLikeSetkey, func(s *sources) *[]string { return &s.scripts }},
	{"racoon", legacy.LooksLikeRacoon, func(s *sources) *[]string { return &s.racoon }},
	{"ipsec.conf", legacy.LooksLikeIPsec, func(s *sources) *[]string { return &s.ipsec }},
	{"ipsec.secrets", legacy.LooksLikeSecrets, func(s *sources) *[]string { return &s.secrets }},
	{"native", nil, func(s *sources) *[]string { return &s.native }},
}

func formatNames() string {
	var names []string
	for _, f := range formats {
		names = append(names, f.name)
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

func formatFlags(c *cobra.Command) {
	c.Flags().String("format", "", "`FORMAT` of all the files: "+formatNames()+"; default: told by what is in them")
	c.Flags().Bool("allow-static-counter-mode", false, "take fixed keys with counter modes (aes-gcm and others), and keep account on disk of their sequence numbers")
}

// newSources tells the files apart.
func newSources(cmd *cobra.Command, files []string) (*sources, error) {
	named, _ := cmd.Flags().GetString("format")
	s := &sources{}
	s.static, _ = cmd.Flags().GetBool("allow-static-counter-mode")
	for _, file := range files {
		var data []byte
		if named == "" {
			// What cannot be read is told when it is read as what it most often is.
			data, _ = readScript(file)
		}
		i := slices.IndexFunc(formats, func(f format) bool {
			if named != "" {
				return f.name == named
			}
			return f.looks == nil || f.looks(data)
		})
		if i < 0 {
			return nil, unusable(fmt.Errorf("format %q is unknown: want %s", named, formatNames()))
		}
		list := formats[i].files(s)
		*list = append(*list, file)
	}
	return s, nil
}

// negotiates says whether any of the files may ask for IKE.
func (s *sources) negotiates() bool { return len(s.native)+len(s.racoon)+len(s.ipsec) > 0 }

// load reads everything. What of it belongs together is there as a whole, or not at all.
func (s *sources) load() (*config.Config, *legacy.Script, []config.Fault) {
	s.latest = nil
	script, faults := s.script()
	converted, script, more := s.convert(script)
	faults = append(faults, more...)
	if !s.negotiates() && !config.Failed(faults) {
		s.latest = script
		return &config.Config{Gateway: config.DefaultGateway()}, script, faults
	}
	foreign := make([]config.Foreign, len(converted))
	for i := range converted {
		foreign[i] = converted[i].Foreign
	}
	if len(s.native)+len(foreign) == 0 {
		return nil, nil, faults
	}
	c, more := config.LoadWith(s.native, foreign)
	if faults = append(faults, more...); config.Failed(faults) {
		return nil, nil, faults
	}
	s.latest = script
	return c, script, faults
}

// convert makes native files of other programs'. What is left of the scripts comes back.
func (s *sources) convert(script *legacy.Script) ([]*legacy.Converted, *legacy.Script, []config.Fault) {
	var out []*legacy.Converted
	var faults []config.Fault
	disk := legacy.SystemDisk()
	for i, name := range s.racoon {
		if i > 0 {
			faults = append(faults, config.Fault{File: name, Message: "is a second racoon.conf, and each would serve all policies: join them by include"})
			continue
		}
		data, err := readScript(name)
		if err != nil {
			faults = append(faults, config.Fault{File: name, Message: err.Error()})
			continue
		}
		r, more := legacy.ParseRacoon(name, data, disk)
		faults = append(faults, more...)
		if r == nil || len(s.scripts) > 0 && script == nil {
			continue
		}
		var db *legacy.Database
		if script != nil {
			db, _ = (*legacy.Database)(nil).Evaluate(script, legacy.World{})
		}
		c, more := r.Convert(db, disk)
		faults = append(faults, more...)
		if c != nil {
			out = append(out, c)
			script = c.Script
		}
	}
	for _, name := range s.ipsec {
		data, err := readScript(name)
		if err != nil {
			faults = append(faults, config.Fault{File: name, Message: err.Error()})
			continue
		}
		files, more := legacy.ParseIPsec(name, data, s.secrets, disk)
		faults = append(faults, more...)
		if files == nil {
			continue
		}
		c, more := files.Convert(thisHost(), disk)
		faults = append(faults, more...)
		if c != nil {
			out = append(out, c)
		}
	}
	if len(s.secrets) > 0 && len(s.ipsec) == 0 {
		faults = append(faults, config.Fault{File: s.secrets[0], Message: "is for an ipsec.conf: name that too"})
	}
	return out, script, faults
}

// thisHost is what an ipsec.conf has to know of the machine.
func thisHost() legacy.Host {
	own := map[netip.Addr]bool{}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				own[p.Addr().Unmap()] = true
			}
		}
	}
	return legacy.Host{Own: func(a netip.Addr) bool { return own[a] }, Source: sourceFor}
}

// sourceFor asks the routing table; nothing is sent.
func sourceFor(peer netip.Addr) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer, 500)))
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// manual is what the scripts said when everything was last read; empty, not nil, where there are scripts that say nothing.
func (s *sources) manual() (*legacy.Script, []config.Fault) {
	if s.latest == nil {
		return &legacy.Script{}, nil
	}
	return s.latest, nil
}

// script reads all scripts as one; nil without any, and with a fault.
func (s *sources) script() (*legacy.Script, []config.Fault) {
	if len(s.scripts) == 0 {
		return nil, nil
	}
	whole := &legacy.Script{}
	var faults []config.Fault
	for _, name := range s.scripts {
		data, err := readScript(name)
		if err != nil {
			faults = append(faults, config.Fault{File: name, Message: err.Error()})
			continue
		}
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			faults = append(faults, config.Fault{File: name, Severity: config.Warning, Message: fmt.Sprintf("others may use the keys in it (mode %04o): run chmod 600", info.Mode().Perm())})
		}
		part, more := legacy.ParseSetkey(name, data)
		faults = append(faults, more...)
		if part != nil {
			if !s.static {
				faults = append(faults, part.StaticCounters()...)
			}
			whole.Operations = append(whole.Operations, part.Operations...)
		}
	}
	if !config.Failed(faults) {
		_, more := (*legacy.Database)(nil).Evaluate(whole, legacy.World{})
		faults = append(faults, more...)
	}
	if config.Failed(faults) {
		return nil, faults
	}
	return whole, faults
}

// contents counts what a configuration has.
func contents(c *config.Config, s *legacy.Script) string {
	if s == nil {
		return plural(len(c.Tunnels), "tunnel", "tunnels")
	}
	d, _ := (*legacy.Database)(nil).Evaluate(s, legacy.World{})
	text := plural(len(d.SAs), "association", "associations") + ", " + plural(len(d.Policies), "policy", "policies")
	if len(c.Tunnels) > 0 {
		text = plural(len(c.Tunnels), "tunnel", "tunnels") + ", " + text
	}
	return text
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

var errNoFile = errors.New("no configuration is named: want --config FILE")
