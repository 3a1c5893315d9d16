# A guest of one sector: sleeps, and switches itself off when the ACPI power button is pressed, so that a soft reboot and
# a stop are real and quick. Ports as SeaBIOS sets them up for QEMU's pc and q35: PM1 status, enable, control at 0x600.
        .code16
        .globl  _start
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ss
        movw    $0x7000, %sp
        movw    $0x602, %dx             # PM1_EN: tell of the power button
        movw    $0x0100, %ax
        outw    %ax, %dx
        movw    $0x600, %dx             # PM1_STS
sleep:
        sti
        hlt                             # until the timer ticks
        inw     %dx, %ax
        testb   $1, %ah                 # PWRBTN_STS
        jz      sleep
        movw    $0x604, %dx             # PM1_CNT: SLP_EN with the type of S5, which is 0
        movw    $0x2000, %ax
        outw    %ax, %dx
        jmp     sleep

        .org    510
        .byte   0x55, 0xaa
