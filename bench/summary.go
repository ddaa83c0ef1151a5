package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// summaryRows are those of the table in README: what they are called there, and the names of the rows here.
var summaryRows = [][2]string{
	{"convert raw to qcow2", "convert raw to qcow2"},
	{"convert qcow2 to raw", "convert qcow2 to raw"},
	{"convert to compressed qcow2, zlib", "convert -c raw to qcow2, zlib"},
	{"convert to compressed qcow2, zstd", "convert -c raw to qcow2, zstd"},
	{"convert compressed qcow2 to raw, zlib", "convert zlib qcow2 to raw"},
	{"convert compressed qcow2 to raw, zstd", "convert zstd qcow2 to raw"},
	{"convert to LUKS", "convert 1 GiB raw to luks"},
	{"compare", "compare raw with qcow2"},
	{"4 KiB reads, 32 at a time", "bench: 200,000 reads of 4 KiB, depth 32"},
	{"4 KiB writes after a snapshot", "bench: 20,000 writes of 4 KiB after a snapshot, depth 32"},
	{"commit of an overlay", "commit 20,000 scattered clusters"},
	{"NBD server, 4 KiB reads", "nbd: fio randread of 4 KiB, depth 32, raw"},
}

// summary makes README's table of the one that an earlier run printed, which stands in a file.
func summary(w io.Writer, name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var head []string
	rows := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case head == nil && cells[0] == "what":
			head = cells
		case head != nil && len(cells) == len(head):
			rows[cells[0]] = cells
		}
	}
	// A column of ratios tells how much faster cowl is than the program of which the column before is, but for cowl's.
	titles, rule, columns := "| faster than |", "| --- |", []int(nil)
	program := ""
	for i, title := range head {
		switch {
		case title == "ratio":
			titles, rule, columns = titles+" "+program+" |", rule+" ---: |", append(columns, i)
		case strings.HasPrefix(title, "QEMU "):
			program = title
		}
	}
	if columns == nil {
		return errors.New(name + ": there is no table of bench")
	}
	out := titles + "\n" + rule + "\n"
	for _, r := range summaryRows {
		cells, found := rows[r[1]]
		if !found {
			return fmt.Errorf("%s: the table has no row %q", name, r[1])
		}
		out += "| " + r[0] + " |"
		for _, i := range columns {
			ratio, err := strconv.ParseFloat(cells[i], 64)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", name, r[1], err)
			}
			out += fmt.Sprintf(" %.1f |", ratio)
		}
		out += "\n"
	}
	_, err = io.WriteString(w, out)
	return err
}
