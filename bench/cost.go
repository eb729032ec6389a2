package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of processor time in /proc: USER_HZ, which Linux fixes at 100 a second for programs.
const clockTick = 10 * time.Millisecond

// cpuTime is the processor time of a process with all its threads, in user and kernel mode.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(string(text))
}

func parseStat(text string) (time.Duration, error) {
	// The name, in parentheses, may hold anything.
	_, rest, ok := cutLast(text, ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("cannot read %q as /proc/PID/stat", text)
	}
	user, err1 := strconv.ParseUint(fields[11], 10, 64)
	system, err2 := strconv.ParseUint(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("cannot read %q as /proc/PID/stat", text)
	}
	return time.Duration(user+system) * clockTick, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// resident is the resident memory of a process in octets.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", pid)
}

// machineTime is what the first line of /proc/stat says, in ticks.
type machineTime struct{ busy, idle, steal uint64 }

func readMachineTime() machineTime {
	text, _ := os.ReadFile("/proc/stat")
	return parseMachineTime(string(text))
}

func parseMachineTime(text string) machineTime {
	line, _, _ := strings.Cut(text, "\n")
	var m machineTime
	for i, f := range strings.Fields(strings.TrimPrefix(line, "cpu")) {
		n, _ := strconv.ParseUint(f, 10, 64)
		switch i {
		case 0, 1, 2, 5, 6: // user, nice, system, irq, softirq
			m.busy += n
		case 3, 4: // idle, iowait
			m.idle += n
		case 7:
			m.steal += n
		}
	}
	return m
}

// stolen is the share of time the hypervisor gave to others between two looks.
func (m machineTime) stolen(later machineTime) float64 {
	steal := float64(later.steal - m.steal)
	all := float64(later.busy-m.busy) + float64(later.idle-m.idle) + steal
	if all == 0 {
		return 0
	}
	return steal / all
}

// loadAverage of the last minute.
func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}
