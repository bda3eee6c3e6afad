"""Languages as files name them ("en-US", "eng", "English", "en-orig"), read as tags of BCP 47."""

import re

# Two letters of ISO 639-1, three of ISO 639-2 (both where there are two), and the English name.
_COMMON = """
af afr Afrikaans|am amh Amharic|ar ara Arabic|az aze Azerbaijani|be bel Belarusian|bg bul Bulgarian|bn ben Bengali
bs bos Bosnian|ca cat Catalan|cs ces,cze Czech|cy cym,wel Welsh|da dan Danish|de deu,ger German|el ell,gre Greek
en eng English|eo epo Esperanto|es spa Spanish|et est Estonian|eu eus,baq Basque|fa fas,per Persian|fi fin Finnish
fr fra,fre French|ga gle Irish|gl glg Galician|gu guj Gujarati|he heb Hebrew|hi hin Hindi|hr hrv Croatian
hu hun Hungarian|hy hye,arm Armenian|id ind Indonesian|is isl,ice Icelandic|it ita Italian|ja jpn Japanese
ka kat,geo Georgian|kk kaz Kazakh|km khm Khmer|kn kan Kannada|ko kor Korean|lo lao Lao|lt lit Lithuanian
lv lav Latvian|mk mkd,mac Macedonian|ml mal Malayalam|mn mon Mongolian|mr mar Marathi|ms msa,may Malay
my mya,bur Burmese|ne nep Nepali|nl nld,dut Dutch|no nor Norwegian|nb nob Bokmål|nn nno Nynorsk|pa pan Punjabi
pl pol Polish|ps pus Pashto|pt por Portuguese|ro ron,rum Romanian|ru rus Russian|si sin Sinhala|sk slk,slo Slovak
sl slv Slovenian|sq sqi,alb Albanian|sr srp Serbian|sv swe Swedish|sw swa Swahili|ta tam Tamil|te tel Telugu
th tha Thai|tl tgl Tagalog|tr tur Turkish|uk ukr Ukrainian|ur urd Urdu|uz uzb Uzbek|vi vie Vietnamese
zh zho,chi Chinese|zu zul Zulu
"""
# The others of ISO 639-1, and languages that have three letters only and are met in names of files.
_RARE = (
    "aa ab ae ak an as av ay ba bh bi bm bo br ce ch co cr cu cv dv dz ee ff fj fo fy gd gn gv ha ho ht hz ia ie ig ii "
    "ik io iu iw jv kg ki kj kl kr ks ku kv kw ky la lb lg li ln lu mg mh mi mt na nd ng nr nv ny oc oj om or os pi qu "
    "rm rn rw sa sc sd se sg sm sn so ss st su tg ti tk tn to ts tt tw ty ug ve vo wa wo xh yi yo za "
    "cmn yue nan wuu fil haw gsw nds ast ceb hmn und mul"
)
_TAG_OF: dict[str, str] = {code: code for code in _RARE.split()}
for _entry in _COMMON.replace("\n", "|").strip("|").split("|"):
    _two, _threes, _name = _entry.split()
    _TAG_OF |= dict.fromkeys((_two, *_threes.split(","), _name.lower()), _two)


def parse_language(text: str) -> str:
    """The tag of a language as a file names it, region and script kept ("pt_br" is "pt-BR"); "" where it is none.

    What follows and is neither is left out: "en-orig" and the numbers that yt-dlp puts behind translations are "en".
    """
    first, *others = re.split("[-_]", text.strip())
    primary = _TAG_OF.get(first.lower(), "")
    tag = primary
    for part in others if primary else ():
        if re.fullmatch("[A-Za-z]{2}|[0-9]{3}", part):
            return f"{tag}-{part.upper()}"
        if re.fullmatch("Han[st]|Latn|Cyrl|Arab|Deva|Hebr", part, re.IGNORECASE) and tag == primary:
            tag = f"{tag}-{part.capitalize()}"
        else:
            break
    return tag


def asks_for(wanted: str, language: str) -> bool:
    """Whether a language is of those that a wanted one stands for: "en" for "en-US", "EN" and "eng" too.

    Names that are no language's are compared as they are; "" stands for a language that is not known.
    """
    asked, given = (parse_language(name) or name for name in (wanted, language))
    return asked == given or (bool(asked) and given.startswith(f"{asked}-"))
