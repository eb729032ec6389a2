package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"coati/gateway/control"
)

// newRacoonctl answers those commands of racoonctl(8) that have a meaning here. Its own option for the socket is -s.
func newRacoonctl() *cobra.Command {
	return &cobra.Command{
		Use:   "racoonctl [-s SOCKET] show-sa isakmp|esp|ipsec | vpn-connect ADDRESS | vpn-disconnect ADDRESS | reload-config",
		Short: "answer as racoonctl does",
		Long: `Speaks to the running daemon in the words of racoonctl(8); a link named racoonctl does the same.

show-sa (ss) isakmp shows the IKE SAs, show-sa esp or ipsec the associations as setkey -D does. vpn-connect (vc) brings the
tunnels to an address up, vpn-disconnect (vd) takes them down; establish-sa (es) and delete-sa (ds) do the same for
isakmp inet|inet6 SOURCE DESTINATION. reload-config (rc) reads the configuration again.`,
		DisableFlagParsing: true,
		RunE:               racoonctl,
	}
}

func racoonctl(cmd *cobra.Command, args []string) error {
	args, err := ownOptions(cmd, args, "-s")
	if err != nil {
		return err
	}
	args = slices.DeleteFunc(args, func(a string) bool { return a == "-l" || a == "-ll" || a == "-d" || a == "-w" })
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" {
		return cmd.Help()
	}
	verb, rest := args[0], args[1:]
	switch verb {
	case "reload-config", "rc":
		return failed(reload(cmd))
	case "show-sa", "ss":
		if len(rest) != 1 {
			return failed(errors.New("show-sa wants isakmp, esp or ipsec"))
		}
		return failed(showSA(cmd, rest[0]))
	case "vpn-connect", "vc", "vpn-disconnect", "vd":
		if len(rest) == 3 && rest[0] == "-u" {
			return failed(errors.New("-u: XAUTH is not built in yet"))
		}
		if len(rest) != 1 {
			return failed(fmt.Errorf("%s wants the address of the gateway", verb))
		}
		return failed(vpn(cmd, verb == "vpn-connect" || verb == "vc", "", rest[0]))
	case "establish-sa", "es", "delete-sa", "ds":
		if len(rest) != 4 || rest[0] != "isakmp" || rest[1] != "inet" && rest[1] != "inet6" {
			return failed(fmt.Errorf("%s wants isakmp inet|inet6 SOURCE DESTINATION; coati up and down do single children", verb))
		}
		return failed(vpn(cmd, verb == "establish-sa" || verb == "es", rest[2], rest[3]))
	}
	return failed(fmt.Errorf("%q is not carried: want show-sa, vpn-connect, vpn-disconnect, establish-sa, delete-sa or reload-config", verb))
}

// ownOptions takes --control, and the program's own option for it, out of the arguments.
func ownOptions(cmd *cobra.Command, args []string, socket string) ([]string, error) {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] != socket && args[i] != "--control" && args[i] != "--ctlsocket" {
			out = append(out, args[i])
			continue
		}
		if i++; i == len(args) {
			return nil, failed(fmt.Errorf("%s wants the path of the control socket", args[i-1]))
		}
		if err := cmd.Flags().Set("control", args[i]); err != nil {
			return nil, failed(err)
		}
	}
	return out, nil
}

func reload(cmd *cobra.Command) error {
	r, err := client(cmd).Reload(cmd.Context())
	if err != nil {
		return err
	}
	for _, f := range r.Faults {
		fmt.Fprintln(cmd.ErrOrStderr(), f)
	}
	if r.Failed {
		return errors.New("the configuration has faults: nothing was changed")
	}
	return nil
}

func showSA(cmd *cobra.Command, what string) error {
	switch what {
	case "isakmp":
		s, err := client(cmd).Status(cmd.Context())
		if err != nil {
			return err
		}
		return writeISAKMP(cmd.OutOrStdout(), s)
	case "esp", "ipsec":
		d, err := client(cmd).Script(cmd.Context(), control.Script{File: "show-sa", Text: "dump esp;"})
		if err != nil {
			return err
		}
		_, err = io.WriteString(cmd.OutOrStdout(), d.Output)
		return err
	}
	return fmt.Errorf("show-sa wants isakmp, esp or ipsec, not %q", what)
}

// writeISAKMP lists IKE SAs as racoonctl does: the peer's address and port, both cookies, and since when.
func writeISAKMP(w io.Writer, s control.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s %-33s %s\n", "Destination", "Cookies", "Created")
	for _, t := range s.Tunnels {
		for _, i := range t.IKE {
			mine, theirs := i.LocalSPI, i.RemoteSPI
			if !i.Initiator {
				mine, theirs = theirs, mine
			}
			created := ""
			if i.Established != nil {
				created = i.Established.Local().Format("2006-01-02 15:04:05")
			}
			peer := i.Remote
			if p, err := netip.ParseAddrPort(peer); err == nil {
				peer = fmt.Sprintf("%s.%d", p.Addr(), p.Port())
			}
			fmt.Fprintf(&b, "%-22s %s:%s %s\n", peer, strings.TrimPrefix(mine, "0x"), strings.TrimPrefix(theirs, "0x"), created)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// vpn brings all tunnels between two addresses up, or takes them down; from may be empty for any.
func vpn(cmd *cobra.Command, up bool, from, to string) error {
	c := client(cmd)
	s, err := c.Status(cmd.Context())
	if err != nil {
		return err
	}
	found := false
	for _, t := range s.Tunnels {
		if !sameHost(t.Remote, to) || from != "" && t.Local != "" && !sameHost(t.Local, from) {
			continue
		}
		found = true
		do := c.Down
		if up {
			do = c.Up
		}
		if _, err := do(cmd.Context(), control.Target{Tunnel: t.Name}); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no tunnel goes to %s: coati status shows those that there are", to)
	}
	text := "VPN connexion terminated"
	if up {
		text = "VPN connexion established"
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

func sameHost(a, b string) bool {
	x, err1 := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	return a == b || err1 == nil && err2 == nil && x == y
}
