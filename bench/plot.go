package bench

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	plotWidth  = 16 * vg.Centimeter
	plotHeight = 9 * vg.Centimeter
)

var colours = map[string]color.Color{
	Coati: rgb(0x1f6feb), CoatiNull: rgb(0x8ab4f8), CoatiRaw: rgb(0x2a9d8f), WireGuard: rgb(0xd9822b), StrongSwan: rgb(0x777777), Bare: rgb(0xbbbbbb),
}

func rgb(x uint32) color.Color {
	return color.RGBA{R: uint8(x >> 16), G: uint8(x >> 8), B: uint8(x), A: 255}
}

// picture is one plot and the name of its file.
type picture struct {
	name, title string
	plot        *plot.Plot
}

// pictures of all that is in the report.
func (r *Report) pictures() ([]picture, error) {
	var out []picture
	for _, p := range []struct {
		name, title string
		draw        func(*plot.Plot) (drawn bool, err error)
	}{
		{"tcp", "Throughput of TCP", func(p *plot.Plot) (bool, error) { return r.drawBars(p, throughput, "tcp-") }},
		{"udp", "UDP under 1 % loss, by size of packet", r.drawSizes},
		{"latency", "Round trips: how many are no slower", r.drawLatency},
		{"cost", "Processor time per gigabit of TCP, both gateways", func(p *plot.Plot) (bool, error) { return r.drawBars(p, costPerGigabit, "tcp-") }},
		{"cost-packet", "Processor time per packet of UDP, both gateways", func(p *plot.Plot) (bool, error) { return r.drawBars(p, costPerPacket, "udp-") }},
		{"stages", "Processor time per gigabit of TCP by stage, both gateways", r.drawStages},
		{"ike", "Processor time of a handshake, the daemon that answers", func(p *plot.Plot) (bool, error) {
			return r.drawBars(p, costPerHandshake, "ike-")
		}},
		{"crypto", "Sealing on one core, 32 packets in a batch", r.drawCrypto},
	} {
		page := plot.New()
		page.Title.Text = p.title
		page.Legend.Top, page.Legend.Padding = true, vg.Points(2)
		page.BackgroundColor = color.White
		drawn, err := p.draw(page)
		if err != nil {
			return nil, err
		}
		if drawn {
			out = append(out, picture{p.name, p.title, page})
		}
	}
	return out, nil
}

// drawBars groups contenders by measure.
func (r *Report) drawBars(p *plot.Plot, metric, measures string) (bool, error) {
	var names, titles []string
	for _, s := range r.Series {
		if s.Metric == metric && strings.HasPrefix(s.Measure, measures) && !slices.Contains(names, s.Measure) {
			names, titles = append(names, s.Measure), append(titles, s.Measure)
		}
	}
	var present []string
	for _, c := range allContenders {
		if slices.ContainsFunc(names, func(m string) bool { return r.find(m, metric, c) != nil }) && c != Bare {
			present = append(present, c)
		}
	}
	if len(names) == 0 {
		return false, nil
	}
	width := vg.Points(300 / float64(len(names)*(len(present)+1)))
	for i, c := range present {
		values := make(plotter.Values, len(names))
		for k, m := range names {
			if s := r.find(m, metric, c); s != nil {
				values[k] = s.Median
			}
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return false, err
		}
		bars.Color, bars.LineStyle.Width = colours[c], 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(present)-1)/2)
		p.Add(bars)
		p.Legend.Add(c, bars)
	}
	p.NominalX(titles...)
	p.Y.Label.Text, p.Y.Min = units[metric], 0
	// Room for the legend.
	p.Y.Max *= 1.3
	return true, nil
}

// drawStages shows what a packet pays on its way, from top to bottom.
func (r *Report) drawStages(p *plot.Plot) (bool, error) {
	if len(r.Stages) == 0 {
		return false, nil
	}
	var values plotter.Values
	var names []string
	for _, s := range slices.Backward(r.Stages) {
		values, names = append(values, s.PerGigabit), append(names, s.Stage)
	}
	bars, err := plotter.NewBarChart(values, vg.Points(12))
	if err != nil {
		return false, err
	}
	bars.Horizontal, bars.Color, bars.LineStyle.Width = true, colours[Coati], 0
	p.Add(bars)
	p.NominalY(names...)
	p.X.Label.Text, p.X.Min = units[costPerGigabit], 0
	return true, nil
}

// drawSizes shows throughput over the size of packets.
func (r *Report) drawSizes(p *plot.Plot) (bool, error) {
	drawn := false
	for _, c := range allContenders {
		var points plotter.XYs
		for _, m := range []struct {
			name string
			size float64
		}{{"udp-64", 64}, {"udp-512", 512}, {"udp-1400", 1400}} {
			if s := r.find(m.name, throughput, c); s != nil {
				points = append(points, plotter.XY{X: m.size, Y: s.Median})
			}
		}
		if len(points) < 2 {
			continue
		}
		if err := addLine(p, c, colours[c], false, points); err != nil {
			return false, err
		}
		drawn = true
	}
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min, p.Legend.Left = "octets of the IP packet", units[throughput], 0, true
	return drawn, nil
}

func addLine(p *plot.Plot, name string, c color.Color, dashed bool, points plotter.XYs) error {
	line, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	line.Color, line.Width = c, vg.Points(1.5)
	if dashed {
		line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
	}
	p.Add(line)
	p.Legend.Add(name, line)
	return nil
}

// drawLatency shows the part of round trips up to a time; beside a TCP stream dashed.
func (r *Report) drawLatency(p *plot.Plot) (bool, error) {
	for _, d := range r.Distributions {
		var points plotter.XYs
		for i, v := range d.Quantiles {
			if v > 0 {
				points = append(points, plotter.XY{X: v, Y: float64(i) / quantileSteps})
			}
		}
		if len(points) == 0 {
			continue
		}
		if err := addLine(p, d.Contender+", "+strings.TrimPrefix(d.Measure, "ping-"), colours[d.Contender], d.Measure == "ping-loaded", points); err != nil {
			return false, err
		}
	}
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.X.Label.Text, p.Y.Label.Text = "µs", "part of all"
	p.Legend.Top = false
	return len(r.Distributions) > 0, nil
}

// drawCrypto shows the largest batch of each transform, sealing; Go's own calls dashed.
func (r *Report) drawCrypto(p *plot.Plot) (bool, error) {
	palette := []color.Color{rgb(0x1f6feb), rgb(0xd9822b), rgb(0x2a9d8f), rgb(0x9b59b6), rgb(0x777777)}
	largest := 0
	for _, x := range r.Crypto {
		largest = max(largest, x.Batch)
	}
	var names []string
	ours, gos := map[string]plotter.XYs{}, map[string]plotter.XYs{}
	for _, x := range r.Crypto {
		if x.Batch != largest || x.Direction != "seal" {
			continue
		}
		if !slices.Contains(names, x.Transform) {
			names = append(names, x.Transform)
		}
		ours[x.Transform] = append(ours[x.Transform], plotter.XY{X: float64(x.Size), Y: x.Sides[0].Median / 1e9})
		if side := x.side(goCalls); side != nil {
			gos[x.Transform] = append(gos[x.Transform], plotter.XY{X: float64(x.Size), Y: side.Median / 1e9})
		}
	}
	for i, name := range names {
		c := palette[i%len(palette)]
		if err := addLine(p, name, c, false, ours[name]); err != nil {
			return false, err
		}
		if err := addLine(p, name+", Go's calls", c, true, gos[name]); err != nil {
			return false, err
		}
	}
	p.Title.Text = fmt.Sprintf("Sealing on one core, %d packets in a batch", largest)
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min, p.Legend.Left = "octets of a packet", "GB/s", 0, true
	p.Y.Max *= 1.6
	return len(names) > 0, nil
}

// CheckPlot says whether a plot can be written to a file of this name.
func CheckPlot(path string) error {
	if ext := filepath.Ext(path); ext != ".svg" && ext != ".png" {
		return fmt.Errorf("plot %q: want a file name that ends in .svg or .png", path)
	}
	return nil
}

// WritePlot writes all pictures of the report, one below the other, as SVG or PNG.
func (r *Report) WritePlot(path string) error {
	if err := CheckPlot(path); err != nil {
		return err
	}
	pictures, err := r.pictures()
	if err != nil {
		return err
	}
	if len(pictures) == 0 {
		return fmt.Errorf("plot %s: there is nothing to draw", path)
	}
	rows := make([][]*plot.Plot, len(pictures))
	for i, p := range pictures {
		rows[i] = []*plot.Plot{p.plot}
	}
	height := plotHeight * vg.Length(len(rows))
	var canvas vg.CanvasWriterTo
	if filepath.Ext(path) == ".svg" {
		canvas = vgsvg.New(plotWidth, height)
	} else {
		canvas = vgimg.PngCanvas{Canvas: vgimg.New(plotWidth, height)}
	}
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadX: vg.Points(8), PadY: vg.Points(12), PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: vg.Points(12)}
	for i, row := range plot.Align(rows, tiles, draw.New(canvas)) {
		rows[i][0].Draw(row[0])
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
