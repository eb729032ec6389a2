package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// WireGuardPeer is what a process that is wireguard-go reads from its input, as JSON.
type WireGuardPeer struct {
	Device   string
	MTU      int
	Settings string // as wireguard-go's own configuration protocol has them
}

const wireguardReady = "wireguard-go is ready"

// ServeWireGuard is wireguard-go with its own TUN and bind, until ctx ends.
func ServeWireGuard(ctx context.Context, settings io.Reader, said io.Writer) error {
	var p WireGuardPeer
	if err := json.NewDecoder(settings).Decode(&p); err != nil {
		return fmt.Errorf("this is the bench's own helper; use coati bench path: %w", err)
	}
	t, err := tun.CreateTUN(p.Device, p.MTU)
	if err != nil {
		return err
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	defer d.Close()
	if err := d.IpcSet(p.Settings); err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(said, wireguardReady); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-d.Wait():
	}
	return nil
}
