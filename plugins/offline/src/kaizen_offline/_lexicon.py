"""Lists of English words: empty ones, irregular ones, numbers, praise and blame."""

from __future__ import annotations

__all__ = ["BLAME", "IRREGULAR", "NUMBERS", "PRAISE", "STOP_WORDS"]

_STOP_WORDS = """
a about above after again all also am an and any anyone anything are aren as at be because
been before being below between both but by can cannot come comes could couldn did didn do
does doesn doing don each either else ever every everyone everything few for from further
get gets give given gives go goes got had has hasn have having he her here hers him his
how however i if in into is isn it its itself just kind kinds let ll many may me might
mine more most much must my myself need needs neither no nor not now of off often on once
one only or other our ours out over own per please re really s same shall she should
shouldn so some someone something such t take taken takes tell than thanks that the their
theirs them then there these they thing things this those through to too under until up
upon us use used uses using ve very via want was wasn way ways we were weren what whatever
when whenever where wherever whether which while who whom whose why will with within
without won would wouldn yes yet you your yours answer answers describe describes example
examples explain explains find happen happens know known list long mean means question
show shows summarise summarize summary work works
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_IRREGULAR = """
become became; begin began begun; bind bound; bite bitten bit; blow blew blown; break
broke broken; bring brought; build built; buy bought; catch caught; child children; choose
chose chosen; cost costs; deal dealt; draw drew drawn; drink drank drunk; drive drove
driven; eat ate eaten; fall fell fallen; feed fed; feel felt; fight fought; fly flew
flown; foot feet; forbid forbade forbidden; forget forgot forgotten; freeze froze frozen;
grow grew grown; hang hung; hear heard; hide hid hidden; hold held; keep kept; lay laid;
lead led; leave left; lend lent; lose lost; make made; man men; meet met; mouse mice; pay
paid; person people persons; ring rang rung; rise rose risen; run ran; say said; see saw
seen; seek sought; sell sold; send sent; shake shook shaken; shine shone; shoot shot;
shrink shrank shrunk; sing sang sung; sink sank sunk; sit sat; sleep slept; speak spoke
spoken; spend spent; stand stood; steal stole stolen; stick stuck; strike struck; swim
swam swum; teach taught; tear tore torn; think thought; throw threw thrown; understand
understood; wake woke woken; wear wore worn; win won; woman women; write wrote written
"""
IRREGULAR = {
    word: tuple(group.split()) for group in _IRREGULAR.split(";") for word in group.split()
}

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: value for value, word in enumerate(_NUMBERS.split())} | {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "ninety": 90,
    "hundred": 100,
    "thousand": 1000,
    "once": 1,
    "twice": 2,
}

_PRAISE = """
amazing awesome beautiful best better brilliant clean comfortable convenient delicious
delight delighted easy enjoy enjoyed enjoyable excellent fantastic fast favourite favorite
fine flawless friendly fun glad good gorgeous great happy helpful impressed impressive
incredible like liked love loved lovely loves nice perfect perfectly pleasant pleased
positive recommend reliable satisfied smooth solid superb sturdy terrific thank thanks
useful wonderful works worth
"""
PRAISE = frozenset(_PRAISE.split())

_BLAME = """
annoying angry awful bad broke broken bug buggy cheap complaint confusing crash crashed
crashes damaged dead defective dirty disappointed disappointing disappointment dislike
disliked error expensive fail failed fails failure faulty flimsy frustrated frustrating
garbage hate hated horrible inferior junk lacking late lost missing mistake negative noisy
overpriced poor poorly problem problems refund regret return returned rude ruined sad slow
terrible ugly uncomfortable unhappy unreliable useless waste wasted weak worse worst wrong
"""
BLAME = frozenset(_BLAME.split())
