package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"coati/bench"
)

func newBench() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "measure throughput, latency and handshakes, beside other programs",
		Long: `Measures Coati beside its peers in one run on one machine, in turns, and prints ratios with their intervals.
Whatever it makes - network namespaces, processes, files - it removes again, also on Ctrl-C.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("nothing to measure is named: want crypto, path, ike or all")
		},
	}
	f := c.PersistentFlags()
	f.Bool("quick", false, "a short run: about a minute")
	f.Bool("json", false, "print json")
	f.String("plot", "", "draw into `FILE`.svg or .png")
	f.String("markdown", "", "write a page `FILE`, and its plots as bench-*.svg beside it")
	f.Int("rounds", 0, "turns of each contender (7; with --quick 5)")
	c.AddCommand(newBenchCrypto(), newBenchPath(), newBenchIKE(), newBenchAll(), newBenchWireGuardPeer())
	return c
}

func newBenchCrypto() *cobra.Command {
	c := &cobra.Command{
		Use:   "crypto",
		Short: "ciphers alone, on one core, beside Go's own calls",
		Long: `Seals and opens batches of packets with every transform by every kernel of this machine, in turns with Go's own calls and, where
gcc and libipsec-mb-dev are installed, with Intel's multi-buffer library, and counts the thread's processor time. COATI_CPU leaves one
kernel: vaes512, vaes256, aesni or generic.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return measure(cmd, func(p *bench.Progress, r *bench.Report) error {
				return bench.Crypto(cmd.Context(), cryptoOptions(cmd), p, r)
			})
		},
	}
	c.Flags().StringSlice("transform", nil, fmt.Sprintf("only these `TRANSFORMS`: %v", bench.TransformNames()))
	c.Flags().IntSlice("size", nil, "only these sizes, `OCTETS`")
	c.Flags().IntSlice("batch", nil, "only these `NUMBERS` of packets in a call")
	return c
}

func cryptoOptions(cmd *cobra.Command) (o bench.CryptoOptions) {
	f := cmd.Flags()
	o.Transforms, _ = f.GetStringSlice("transform")
	o.Sizes, _ = f.GetIntSlice("size")
	o.Batches, _ = f.GetIntSlice("batch")
	o.Rounds, _ = f.GetInt("rounds")
	if quick, _ := f.GetBool("quick"); quick {
		o.Turn = 2 * time.Millisecond
	}
	return o
}

func newBenchPath() *cobra.Command {
	c := &cobra.Command{
		Use:   "path",
		Short: "two gateways on a link: TCP, UDP, round trips, processor time (root)",
		Long: `Brings up each contender between two network namespaces that a veth link joins, and measures them in turns.
It needs root, /dev/net/tun and iperf3; strongSwan takes part where it is installed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return measure(cmd, func(p *bench.Progress, r *bench.Report) error {
				return bench.Path(cmd.Context(), pathOptions(cmd), p, r)
			})
		},
	}
	addPathFlags(c)
	return c
}

func addPathFlags(c *cobra.Command) {
	c.Flags().StringSlice("contender", nil, fmt.Sprintf("only these `NAMES`: %v", bench.ContenderNames()))
	c.Flags().StringSlice("measure", nil, fmt.Sprintf("only these `MEASURES`: %v", bench.MeasureNames()))
	c.Flags().Int("seconds", 0, "length of a TCP stream or a row of pings (2; with --quick 1)")
}

func pathOptions(cmd *cobra.Command) (o bench.PathOptions) {
	f := cmd.Flags()
	o.Contenders, _ = f.GetStringSlice("contender")
	o.Measures, _ = f.GetStringSlice("measure")
	o.Rounds, _ = f.GetInt("rounds")
	o.Seconds, _ = f.GetInt("seconds")
	o.Quick, _ = f.GetBool("quick")
	return o
}

func newBenchIKE() *cobra.Command {
	c := &cobra.Command{
		Use:   "ike",
		Short: "handshakes a second by key exchange; as root, what IKE costs beside strongSwan",
		Long: `Measures handshakes with both ends on one core. As root it also has a daemon of ours and strongSwan's, where that is
installed, answer the same callers in network namespaces, and compares processor time of a handshake, memory of an SA, and
the time to load and reload ten thousand tunnels. The environment variable COATI_BENCH_CHARON may name the charon of another
strongSwan, built with its plugin load-tester: it joins with a kernel that does nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return measure(cmd, func(p *bench.Progress, r *bench.Report) error {
				return benchIKE(cmd, p, r)
			})
		},
	}
	c.Flags().StringSlice("method", nil, fmt.Sprintf("only these `KEYWORDS`; the usual ones are %v", bench.MethodNames()))
	c.Flags().StringSlice("part", nil, fmt.Sprintf("of what is measured beside strongSwan only these `PARTS`: %v", bench.PartNames()))
	c.Flags().StringSlice("auth", nil, fmt.Sprintf("beside strongSwan, prove identities by these `PROOFS` of %v (psk)", bench.ProofNames()))
	c.Flags().Int("handshakes", 0, "made with each daemon in each round (300; with --quick 200)")
	c.Flags().Int("sas", 0, "held at once, to see what they take of memory (10000; with --quick 2000)")
	c.Flags().Int("tunnels", 0, "configured, to see how long they take to load (10000; with --quick 1000)")
	return c
}

func benchIKE(cmd *cobra.Command, p *bench.Progress, r *bench.Report) error {
	if err := bench.IKE(cmd.Context(), ikeOptions(cmd), p, r); err != nil {
		return err
	}
	var o bench.IKECostOptions
	o.Rounds, _ = cmd.Flags().GetInt("rounds")
	o.Quick, _ = cmd.Flags().GetBool("quick")
	// `bench all` has no flags for these.
	o.Methods, _ = cmd.Flags().GetStringSlice("method")
	o.Parts, _ = cmd.Flags().GetStringSlice("part")
	o.Proofs, _ = cmd.Flags().GetStringSlice("auth")
	o.Handshakes, _ = cmd.Flags().GetInt("handshakes")
	o.SAs, _ = cmd.Flags().GetInt("sas")
	o.Tunnels, _ = cmd.Flags().GetInt("tunnels")
	return bench.IKECost(cmd.Context(), o, p, r)
}

func ikeOptions(cmd *cobra.Command) (o bench.IKEOptions) {
	f := cmd.Flags()
	o.Methods, _ = f.GetStringSlice("method")
	o.Rounds, _ = f.GetInt("rounds")
	if quick, _ := f.GetBool("quick"); quick {
		o.Turn = 100 * time.Millisecond
	}
	return o
}

func newBenchAll() *cobra.Command {
	c := &cobra.Command{
		Use:   "all",
		Short: "path, ike and crypto, one after the other (root)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return measure(cmd, func(p *bench.Progress, r *bench.Report) error {
				if err := bench.Path(cmd.Context(), pathOptions(cmd), p, r); err != nil {
					return err
				}
				if err := benchIKE(cmd, p, r); err != nil {
					return err
				}
				return bench.Crypto(cmd.Context(), cryptoOptions(cmd), p, r)
			})
		},
	}
	addPathFlags(c)
	return c
}

// newBenchWireGuardPeer is the process that bench path starts for wireguard-go.
func newBenchWireGuardPeer() *cobra.Command {
	return &cobra.Command{
		Use:    "wireguard-peer",
		Short:  "be wireguard-go, for bench path",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed(bench.ServeWireGuard(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout()))
		},
	}
}

// measure makes a report and prints it: what there is of it, if something failed.
func measure(cmd *cobra.Command, take func(*bench.Progress, *bench.Report) error) error {
	asJSON, _ := cmd.Flags().GetBool("json")
	plot, _ := cmd.Flags().GetString("plot")
	page, _ := cmd.Flags().GetString("markdown")
	if plot != "" {
		if err := bench.CheckPlot(plot); err != nil {
			return unusable(err)
		}
	}
	p := &bench.Progress{W: cmd.ErrOrStderr(), Terminal: isTerminal(cmd.ErrOrStderr())}
	r := bench.NewReport()
	taken := take(p, r)
	if e, ok := errors.AsType[*bench.ChoiceError](taken); ok {
		return unusable(e)
	}
	if cmd.Context().Err() != nil {
		taken = errors.New("interrupted: only what was measured until then is shown")
	}
	if r.Empty() && taken != nil {
		return failed(taken)
	}
	r.Finish()
	write := r.WriteTables
	if asJSON {
		write = r.WriteJSON
	}
	if err := errors.Join(taken, write(cmd.OutOrStdout())); err != nil {
		return failed(err)
	}
	if plot != "" {
		if err := r.WritePlot(plot); err != nil {
			return failed(err)
		}
	}
	if page != "" {
		return failed(r.WriteMarkdown(page))
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
