"""Prompts with characters that file formats, shells and fonts find hard."""

PROMPTS = [
    "a castle",
    'say "hi" \\ it\'s 50%: [0:v]',
    "../up/and\\down;rm -rf",
    "one\ntwo\r\n\tthree\x00end",
    "dog 🐶 \U0001f469\u200d\U0001f680 \ufe0f♪",
    "一座城堡，钟声",
    "Ça c’été ß Ж عربى",
    "\udc80 lone surrogate",
    "very long " * 20000,
    "",
]
