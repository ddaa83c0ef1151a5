// Package windows has tests that run the programs for Windows under Wine. They are built
// with the tag wine; tools/try-windows.sh makes the system that they need, which
// COWL_WINE names.
package windows
