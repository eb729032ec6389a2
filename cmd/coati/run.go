package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"github.com/spf13/cobra"

	"coati/gateway"
	"coati/policy/config"
)

func newRun() *cobra.Command {
	c := &cobra.Command{
		Use:   "run --config FILE...",
		Short: "be the gateway, in the foreground",
		Long: `Runs the gateway in the foreground until SIGTERM or SIGINT, and then tells all peers and leaves nothing
behind: no device, route, rule or sysctl. SIGHUP reads the configuration again and changes only what changed.

A file is Coati's own, a script of setkey's, a racoon.conf, an ipsec.conf or an ipsec.secrets, told apart by what is in them. A script's
associations have manual keys, and it begins with none but those it adds; where all files are scripts nothing is
ever negotiated. A racoon.conf negotiates for the policies of the scripts beside it that need associations:
coati run --config racoon.conf --config ipsec-tools.conf. The secrets of an ipsec.conf are in the
ipsec.secrets beside it, where no other is named.

It needs root, or CAP_NET_ADMIN and CAP_NET_RAW, and /dev/net/tun. The log is text on stderr.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd) },
	}
	c.Flags().StringArray("config", nil, "configuration `FILE`; may be given more than once: all files together are one configuration")
	formatFlags(c)
	c.Flags().String("counter-dir", "", "`DIR` of the account that --allow-static-counter-mode keeps; it must outlive a restart of the machine (default /var/lib/coati/counters)")
	c.Flags().Bool("log-json", false, "log json for machines")
	c.Flags().String("log-level", "", "`LEVEL` of the log: debug, info, warn or error; outranks the file")
	return c
}

func run(cmd *cobra.Command) error {
	files, _ := cmd.Flags().GetStringArray("config")
	if len(files) == 0 {
		return unusable(errNoFile)
	}
	level, err := newLevel(cmd)
	if err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	from, err := newSources(cmd, files)
	if err != nil {
		return err
	}
	settings, script, faults := from.load()
	for _, f := range faults {
		fmt.Fprintln(stderr, f)
	}
	if config.Failed(faults) {
		return unusable(nil)
	}
	level.follow(settings)
	asJSON, _ := cmd.Flags().GetBool("log-json")
	counters, _ := cmd.Flags().GetString("counter-dir")
	c := gateway.Config{
		Settings: settings,
		Load: func() (*config.Config, []config.Fault) {
			c, _, faults := from.load()
			if c != nil {
				level.follow(c)
			}
			return c, faults
		},
		Manual: script, NoIKE: !from.negotiates(), AllowStaticCounterMode: from.static, CounterDir: counters,
		Control: controlPath(cmd),
		Log:     newLogger(stderr, asJSON, &level.current),
		// Not a flag and not in a file: only coati bench path sets it.
		InsecureNullCipher: os.Getenv("COATI_INSECURE_NULL_CIPHER") == "1",
	}
	if len(from.scripts) > 0 {
		c.LoadManual = from.manual
	}
	g, err := gateway.New(c)
	if err != nil {
		return unusable(err)
	}
	// Nor is this: a profile of the whole run, written at its end.
	if name := os.Getenv("COATI_CPU_PROFILE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return unusable(fmt.Errorf("COATI_CPU_PROFILE: %w", err))
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return unusable(fmt.Errorf("COATI_CPU_PROFILE: %w", err))
		}
		defer pprof.StopCPUProfile()
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go followHeap(ctx)
	reloader := make(chan struct{})
	go func() {
		defer close(reloader)
		for {
			select {
			case <-hup:
				// What came of it is in the log.
				_, _ = g.Reload(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	err = g.Run(ctx)
	cancel()
	<-reloader
	return failed(err)
}

// level is the log's level: the one on the command line, else the file's, also after a reload.
type level struct {
	current slog.LevelVar
	fixed   bool
}

func newLevel(cmd *cobra.Command) (*level, error) {
	l := &level{}
	name, _ := cmd.Flags().GetString("log-level")
	if name == "" {
		return l, nil
	}
	var v slog.Level
	if err := v.UnmarshalText([]byte(name)); err != nil {
		return nil, unusable(fmt.Errorf("log level %q is unknown: want debug, info, warn or error", name))
	}
	l.current.Set(v)
	l.fixed = true
	return l, nil
}

func (l *level) follow(c *config.Config) {
	if !l.fixed {
		l.current.Set(c.Gateway.LogLevel)
	}
}

func newLogger(w io.Writer, asJSON bool, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
