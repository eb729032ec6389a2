package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"coati/policy/config"
	"coati/policy/legacy"
)

// sources are the configuration files of one gateway, by format.
type sources struct {
	native, scripts []string
	static          bool // fixed keys of counter modes are taken
}

func formatFlags(c *cobra.Command) {
	c.Flags().String("format", "", "`FORMAT` of all the files: native or setkey; default: told by what is in them")
	c.Flags().Bool("allow-static-counter-mode", false, "take fixed keys with counter modes (aes-gcm and others), and keep account on disk of their sequence numbers")
}

// newSources tells the files apart.
func newSources(cmd *cobra.Command, files []string) (*sources, error) {
	format, _ := cmd.Flags().GetString("format")
	s := &sources{}
	s.static, _ = cmd.Flags().GetBool("allow-static-counter-mode")
	switch format {
	case "native":
		s.native = files
	case "setkey":
		s.scripts = files
	case "":
		for _, f := range files {
			// What cannot be read is told when it is read as what it most often is.
			if data, err := readScript(f); err == nil && legacy.LooksLikeSetkey(data) {
				s.scripts = append(s.scripts, f)
			} else {
				s.native = append(s.native, f)
			}
		}
	default:
		return nil, unusable(fmt.Errorf("format %q is unknown: want native or setkey", format))
	}
	return s, nil
}

// settings reads the native files; without any they are the defaults.
func (s *sources) settings() (*config.Config, []config.Fault) {
	if len(s.native) == 0 {
		return &config.Config{Gateway: config.DefaultGateway()}, nil
	}
	return config.Load(s.native)
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

// load reads everything.
func (s *sources) load() (*config.Config, *legacy.Script, []config.Fault) {
	c, faults := s.settings()
	script, more := s.script()
	return c, script, append(faults, more...)
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
